//! Faults planted beside the engines, to prove that the judge would see them inside.
//!
//! Each stands for a bug an engine could have. Planting them between engine and world needs no copy
//! of the engine's code and no switch in it.

/// One planted fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// The coordinator ignores some terminal frames: a reservation is never settled.
    ForgetSettle,
    /// The coordinator bills more than was reported.
    BillMore,
    /// The coordinator books less than was used, so that a window lasts longer than it may.
    BillLess,
    /// The coordinator records other prices than it chose by.
    MisstatePrice,
    /// The coordinator says terminal replies twice.
    RepeatReply,
    /// The coordinator swallows some terminal replies.
    SwallowReply,
    /// The coordinator loses some deltas.
    LoseDelta,
    /// The coordinator does not cancel work nobody waits for.
    ForgetCancel,
    /// The coordinator sends work to another expert than it chose.
    WrongExpert,
    /// The coordinator sends work to a session that has ended or never was.
    WrongSession,
    /// The agent runs one job more than its cores bear.
    TooParallel,
    /// The agent says terminal frames twice.
    RepeatFrame,
    /// The agent swallows some terminal frames.
    SwallowFrame,
    /// The agent lets a worker that does not stop go on.
    ForgetKill,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::ForgetSettle,
        Self::BillMore,
        Self::BillLess,
        Self::MisstatePrice,
        Self::RepeatReply,
        Self::SwallowReply,
        Self::LoseDelta,
        Self::ForgetCancel,
        Self::WrongExpert,
        Self::WrongSession,
        Self::TooParallel,
        Self::RepeatFrame,
        Self::SwallowFrame,
        Self::ForgetKill,
    ];
}
