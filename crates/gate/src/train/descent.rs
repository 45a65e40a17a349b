//! Minimising a smooth function: L-BFGS with a backtracking line search (Nocedal and Wright, Numerical
//! Optimization, chapter 7).
//!
//! One method serves linear heads, small networks and calibration. Stochastic steps were not taken: the
//! data fit into memory, a full gradient is one stream over them, and a method without step sizes to
//! tune converges to the same point whatever the order of the rows, which is what makes "train once,
//! reuse for every subset" testable to a tolerance.

/// Pairs of steps and gradient changes remembered.
const MEMORY: usize = 10;
/// Share of the predicted decrease that a step must bring (Armijo).
const SUFFICIENT: f64 = 1e-4;
/// Halvings of a step before giving up.
const HALVINGS: usize = 40;

/// When to stop.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Stop {
    /// Largest component of the gradient.
    pub(crate) gradient: f64,
    /// Steps.
    pub(crate) steps: usize,
}

/// Minimises `f` from `x` in place and returns its value there. `f` gets a point and fills in the
/// gradient.
pub(crate) fn minimise(
    x: &mut [f64],
    stop: Stop,
    mut f: impl FnMut(&[f64], &mut [f64]) -> f64,
) -> f64 {
    let n = x.len();
    let mut gradient = vec![0.0; n];
    let mut value = f(x, &mut gradient);
    let mut memory = Memory::default();
    let (mut point, mut next_gradient) = (vec![0.0; n], vec![0.0; n]);
    for _ in 0..stop.steps {
        if gradient.iter().all(|g| g.abs() <= stop.gradient) {
            break;
        }
        let mut direction = memory.direction(&gradient);
        let mut slope = dot(&direction, &gradient);
        if slope >= 0.0 {
            // Rounding has spoilt the memory: steepest descent is always downhill.
            memory = Memory::default();
            direction = gradient.iter().map(|g| -g).collect();
            slope = -dot(&gradient, &gradient);
        }
        let first = memory.pairs.is_empty();
        let mut length = if first {
            1.0 / norm(&gradient).max(1.0)
        } else {
            1.0
        };
        let mut next = f64::INFINITY;
        for _ in 0..HALVINGS {
            for ((p, x), d) in point.iter_mut().zip(x.iter()).zip(&direction) {
                *p = x + length * d;
            }
            next = f(&point, &mut next_gradient);
            if next <= value + SUFFICIENT * length * slope {
                break;
            }
            length *= 0.5;
        }
        // Not a number, or no decrease that arithmetic can show.
        if next.is_nan() || next >= value {
            break;
        }
        memory.push(
            point.iter().zip(x.iter()).map(|(p, x)| p - x).collect(),
            next_gradient
                .iter()
                .zip(&gradient)
                .map(|(n, g)| n - g)
                .collect(),
        );
        x.copy_from_slice(&point);
        std::mem::swap(&mut gradient, &mut next_gradient);
        value = next;
    }
    value
}

/// The last steps and how the gradient changed along them.
#[derive(Default)]
struct Memory {
    pairs: std::collections::VecDeque<Pair>,
}

struct Pair {
    step: Vec<f64>,
    change: Vec<f64>,
    curvature: f64,
}

impl Memory {
    fn push(&mut self, step: Vec<f64>, change: Vec<f64>) {
        let curvature = dot(&step, &change);
        // Only positive curvature keeps the implied matrix positive definite.
        if curvature <= f64::EPSILON * dot(&change, &change) {
            return;
        }
        if self.pairs.len() == MEMORY {
            self.pairs.pop_front();
        }
        self.pairs.push_back(Pair {
            step,
            change,
            curvature,
        });
    }

    /// Minus the gradient times the approximate inverse Hessian: the two loops.
    fn direction(&self, gradient: &[f64]) -> Vec<f64> {
        let mut q: Vec<f64> = gradient.iter().map(|g| -g).collect();
        let mut alphas = Vec::with_capacity(self.pairs.len());
        for pair in self.pairs.iter().rev() {
            let alpha = dot(&pair.step, &q) / pair.curvature;
            add(&mut q, -alpha, &pair.change);
            alphas.push(alpha);
        }
        if let Some(last) = self.pairs.back() {
            let scale = last.curvature / dot(&last.change, &last.change);
            q.iter_mut().for_each(|x| *x *= scale);
        }
        for (pair, alpha) in self.pairs.iter().zip(alphas.into_iter().rev()) {
            let beta = dot(&pair.change, &q) / pair.curvature;
            add(&mut q, alpha - beta, &pair.step);
        }
        q
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

fn add(to: &mut [f64], factor: f64, what: &[f64]) {
    to.iter_mut().zip(what).for_each(|(t, w)| *t += factor * w);
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIGHT: Stop = Stop {
        gradient: 1e-9,
        steps: 500,
    };

    #[test]
    fn a_quadratic_is_solved_whatever_its_scales() {
        let scale = [1.0, 100.0, 0.01, 7.0];
        let target = [3.0, -2.0, 50.0, 0.0];
        let mut x = [0.0; 4];
        let value = minimise(&mut x, TIGHT, |x, g| {
            let mut sum = 0.0;
            for i in 0..4 {
                g[i] = scale[i] * (x[i] - target[i]);
                sum += 0.5 * g[i] * (x[i] - target[i]);
            }
            sum
        });
        assert!(value < 1e-12, "{value}");
        assert!(
            x.iter().zip(target).all(|(x, t)| (x - t).abs() < 1e-5),
            "{x:?}"
        );
    }

    #[test]
    fn a_curved_valley_is_followed_to_its_end() {
        // Rosenbrock's function: the minimum is at (1, 1).
        let mut x = [-1.2, 1.0];
        minimise(&mut x, TIGHT, |x, g| {
            let (a, b) = (1.0 - x[0], x[1] - x[0] * x[0]);
            g[0] = -2.0 * a - 400.0 * x[0] * b;
            g[1] = 200.0 * b;
            a * a + 100.0 * b * b
        });
        assert!(
            (x[0] - 1.0).abs() < 1e-6 && (x[1] - 1.0).abs() < 1e-6,
            "{x:?}"
        );
    }

    #[test]
    fn a_function_without_numbers_ends() {
        let mut x = [1.0];
        let value = minimise(&mut x, TIGHT, |_, g| {
            g[0] = f64::NAN;
            f64::NAN
        });
        assert!(value.is_nan());
        assert_eq!(x, [1.0]);
    }
}
