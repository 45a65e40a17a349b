//! What a branch-and-bound search may use; everything is on unless an ablation turns it off.

/// The bounds of MATH section 4, each an upper bound on every set of a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// (a) The value of everything still allowed.
    pub everything: bool,
    /// (b) The value so far and a fractional knapsack of marginal values.
    pub marginal: bool,
    /// (c) The linear-programming bound by Benders cuts.
    pub cuts: bool,
    /// (d) The Lagrangian bound by subgradient steps.
    pub lagrangian: bool,
}

/// The branch-reduce-and-bound solver with its switches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BranchAndBound {
    /// Which bounds are computed. Without any, boxes are closed only by enumeration.
    pub bounds: Bounds,
    /// Drop dominated experts first.
    pub dominance: bool,
    /// Merge calibration rows with equal utilities first.
    pub merge: bool,
    /// Fix experts whose reduced cost shows that the other side holds nothing better.
    pub fixing: bool,
    /// Enumerate small boxes on compacted rows instead of splitting them.
    pub dive: bool,
    /// Exchange members of the first set found until nothing improves.
    pub exchanges: bool,
    /// Blocks of rows with a cut of their own; `None` chooses.
    pub blocks: Option<usize>,
    /// Candidates for a split that are tried out before one is chosen.
    pub probes: usize,
}

impl BranchAndBound {
    /// Everything on.
    pub const FULL: Self = Self {
        bounds: Bounds {
            everything: true,
            marginal: true,
            cuts: true,
            lagrangian: true,
        },
        dominance: true,
        merge: true,
        fixing: true,
        dive: true,
        exchanges: true,
        blocks: None,
        probes: 4,
    };
}

impl Default for BranchAndBound {
    fn default() -> Self {
        Self::FULL
    }
}
