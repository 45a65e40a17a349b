//! Faults planted beside the engines, to prove that the judge would see them inside.
//!
//! Each stands for a bug an engine or its driver could have. Planting them between engine and world needs no
//! copy of the engine's code and no switch in it.

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
    /// The coordinator sends a delta after the end of some answers.
    LateDelta,
    /// The coordinator does not cancel work nobody waits for.
    ForgetCancel,
    /// The coordinator sends work to another expert than it chose.
    WrongExpert,
    /// The coordinator sends work to an expert that is not active.
    Inactive,
    /// The coordinator sends work to a session that has ended or never was.
    WrongSession,
    /// The coordinator sends some work twice.
    DoubleDispatch,
    /// The coordinator's timers do not fire.
    ForgetTimers,
    /// The coordinator's timer of a node's silence is not set anew once the node is suspect.
    ForgetSilence,
    /// The coordinator ends answers before their settlements are on disk.
    EndEarly,
    /// The coordinator sends work before its mark is on disk.
    SendEarly,
    /// A coordinator that is started again does not charge what was under way.
    ForgetMarks,
    /// A coordinator that is started again numbers its work as the last one did.
    ReuseNumbers,
    /// The agent runs one job more than its cores bear.
    TooParallel,
    /// The agent holds more than its memory does.
    TooFull,
    /// The agent says terminal frames twice.
    RepeatFrame,
    /// The agent swallows some terminal frames.
    SwallowFrame,
    /// The agent lets a worker that does not stop go on.
    ForgetKill,
    /// The agent goes on with work whose coordinator is gone.
    ForgetDisconnect,
    /// The agent does not dial again.
    ForgetDial,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 26] = [
        Self::ForgetSettle,
        Self::BillMore,
        Self::BillLess,
        Self::MisstatePrice,
        Self::RepeatReply,
        Self::SwallowReply,
        Self::LoseDelta,
        Self::LateDelta,
        Self::ForgetCancel,
        Self::WrongExpert,
        Self::Inactive,
        Self::WrongSession,
        Self::DoubleDispatch,
        Self::ForgetTimers,
        Self::ForgetSilence,
        Self::EndEarly,
        Self::SendEarly,
        Self::ForgetMarks,
        Self::ReuseNumbers,
        Self::TooParallel,
        Self::TooFull,
        Self::RepeatFrame,
        Self::SwallowFrame,
        Self::ForgetKill,
        Self::ForgetDisconnect,
        Self::ForgetDial,
    ];
}
