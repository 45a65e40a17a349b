//! Symmetric positive definite systems of a few dozen unknowns.

/// The lower triangle L with L·Lᵀ = the matrix (row by row, `n × n`), or nothing if it is not positive
/// definite.
pub(crate) fn factor(matrix: &[f64], n: usize) -> Option<Vec<f64>> {
    let mut l = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            let shared: f64 = (0..j).map(|k| l[i * n + k] * l[j * n + k]).sum();
            let rest = matrix[i * n + j] - shared;
            l[i * n + j] = if i == j {
                if rest.is_nan() || rest <= 0.0 {
                    return None;
                }
                rest.sqrt()
            } else {
                rest / l[j * n + j]
            };
        }
    }
    Some(l)
}

/// The solution of L·Lᵀ x = b.
pub(crate) fn solve(l: &[f64], b: &[f64]) -> Vec<f64> {
    let n = b.len();
    let mut x = forward(l, b);
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|k| l[k * n + i] * x[k]).sum();
        x[i] = (x[i] - known) / l[i * n + i];
    }
    x
}

/// The solution of L y = b; |y|² is b's square in the metric of the inverse matrix.
pub(crate) fn forward(l: &[f64], b: &[f64]) -> Vec<f64> {
    let n = b.len();
    let mut y = b.to_vec();
    for i in 0..n {
        let known: f64 = (0..i).map(|k| l[i * n + k] * y[k]).sum();
        y[i] = (y[i] - known) / l[i * n + i];
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_is_solved_and_an_indefinite_one_refused() {
        let matrix = [4.0, 2.0, 0.6, 2.0, 5.0, 1.0, 0.6, 1.0, 3.0];
        let l = factor(&matrix, 3).expect("it is positive definite");
        let x = solve(&l, &[1.0, 2.0, 3.0]);
        for (row, b) in matrix.chunks(3).zip([1.0, 2.0, 3.0]) {
            let product: f64 = row.iter().zip(&x).map(|(a, x)| a * x).sum();
            assert!((product - b).abs() < 1e-12);
        }
        assert_eq!(factor(&[1.0, 2.0, 2.0, 1.0], 2), None);
    }
}
