//! What an observer who sees everything would write down.
//!
//! For `check`, `report` and the digest: the world tells them each thing that happened in one flat form.
//! Invariants: small and plain, because millions are made; a kind's number is stable within one build only.

use super::slab::Key;

/// One thing that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What.
    pub what: What,
    /// At which node.
    pub node: u32,
    /// With which other node; the node itself when there is none.
    pub other: u32,
    /// To which request; [`Key::NONE`] when to none.
    pub request: Key,
    /// A number that belongs to the kind.
    pub value: u64,
}

macro_rules! kinds {
    ($( $(#[doc = $about:literal])+ $kind:ident = $word:literal; )+) => {
        /// What happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum What {
            $( $(#[doc = $about])+ $kind, )+
        }

        impl What {
            /// In a word, for people.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$kind => $word,)+
                }
            }
        }
    };
}

kinds! {
    /// A caller came to a door.
    Arrived = "arrived";
    /// A caller left before the end.
    CallerLeft = "caller left";
    /// A caller found the door shut, or lost its connection with the process behind it.
    DoorGone = "door gone";
    /// A node sent a job to a peer. Value: the attempt; from bit 32 on 1 when the job had come from a peer.
    Forwarded = "forwarded";
    /// The job of a peer arrived.
    Offered = "offered";
    /// A peer's acknowledgement came back.
    Accepted = "accepted";
    /// A peer's refusal came back. Value: the reason.
    Refused = "refused";
    /// A peer's answer came back. Value: the verdict.
    Answered = "answered";
    /// A connection with a job on it broke.
    Broke = "broke";
    /// A node gave up a placement on a peer. Value: the attempt.
    Abandoned = "abandoned";
    /// A job went to the device for the first time on this node.
    Ran = "ran";
    /// A batch came from the device. Value: its rows.
    BatchEnded = "batch ended";
    /// A batch did not work. Value: its rows.
    BatchFailed = "batch failed";
    /// A caller's job ended. Value: how ([`Ended`]), and from the eighth bit on the placement that answered.
    Finished = "finished";
    /// A peer's job ended on the node that had it. Value: the outcome.
    PeersJobEnded = "peer's job ended";
    /// A node announced its load.
    Published = "published";
    /// A node heard of its peers. Value: how many.
    Members = "members";
    /// A datagram of gossip arrived. Value: which of the three.
    Gossiped = "gossiped";
    /// A node's gossip had its turn.
    Round = "round";
    /// A node heard that time went by.
    Ticked = "ticked";
    /// A node asked a peer whether it is there.
    Pinged = "pinged";
    /// A peer answered a ping (value 1), or did not (value 0).
    PingEnded = "ping ended";
    /// A node looked how fast it is.
    Measured = "measured";
    /// A node asked its model what is known.
    CanaryAsked = "canary asked";
    /// The answer was right (value 1), or was not (value 0).
    CanaryEnded = "canary ended";
    /// A node gave up its device.
    Wedged = "wedged";
    /// A process started. Value: its number.
    Started = "started";
    /// Its model is loaded.
    Ready = "ready";
    /// A process was killed.
    Killed = "killed";
    /// A process was told to leave.
    Draining = "draining";
    /// A process ended by itself.
    Exited = "exited";
    /// A process was stopped.
    Frozen = "frozen";
    /// A stopped process goes on. Value: how long it stood, in microseconds.
    Thawed = "thawed";
    /// A fault began. Value: which of the plan.
    FaultBegan = "fault began";
    /// All faults ended.
    Healed = "healed";
}

/// How a job ended: the value of [`What::Finished`] and [`What::PeersJobEnded`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ended {
    /// With an answer of its own node.
    DoneHere,
    /// With an answer of a peer.
    DoneAway,
    /// The caller has to change it.
    Rejected,
    /// The model failed wherever it was tried.
    RequestsFault,
    /// The model failed, and there was nobody else to try.
    EngineFailed,
    /// All were too busy.
    Overloaded,
    /// Nobody could take it.
    Unavailable,
    /// Its deadline passed.
    Expired,
    /// A peer's job was not taken.
    Refused,
}

impl Ended {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::DoneHere,
        Self::DoneAway,
        Self::Rejected,
        Self::RequestsFault,
        Self::EngineFailed,
        Self::Overloaded,
        Self::Unavailable,
        Self::Expired,
        Self::Refused,
    ];

    /// The one with this number in the lowest byte of `value`.
    #[must_use]
    pub fn of(value: u64) -> Option<Self> {
        Self::ALL.get(usize::try_from(value & 0xff).ok()?).copied()
    }

    /// Whether the caller got what it came for.
    #[must_use]
    pub fn is_done(self) -> bool {
        matches!(self, Self::DoneHere | Self::DoneAway)
    }

    /// In a word, for people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::DoneHere => "done here",
            Self::DoneAway => "done by a peer",
            Self::Rejected => "rejected",
            Self::RequestsFault => "failed everywhere",
            Self::EngineFailed => "engine failed",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
            Self::Expired => "expired",
            Self::Refused => "refused",
        }
    }
}
