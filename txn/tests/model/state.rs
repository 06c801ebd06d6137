//! What there is at one moment: the shards, the transactions, and what is in the network.
//!
//! Small numbers throughout, in arrays of a fixed size, since there are millions of these. Timestamps are ranks:
//! only their order matters, and [`State::canonical`] closes the gaps, so that two histories that differ in nothing
//! but unused timestamps end in the same state.

/// A transaction's number; the smaller, the older.
pub type Id = usize;
/// A timestamp; 0 is before everything.
pub type Ts = u8;

pub const TXNS: usize = 4;
pub const KEYS: usize = 3;
pub const SHARDS: usize = 2;
/// Whose inquiry it is, if no transaction's: someone who waits to write, or passes by.
pub const PASSER_BY: usize = TXNS;
/// Versions of one key.
const VERSIONS: usize = 5;
/// The timestamp of a read of the latest.
pub const LATEST: Ts = Ts::MAX;

/// What is known of a transaction's fate: in a record, in a request, in the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Fate {
    #[default]
    Unknown,
    /// Up to the timestamp of the request that has asked.
    Pending,
    Committed(Ts),
    Aborted,
}

/// Where a coordinator is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Hash)]
pub enum Phase {
    #[default]
    Idle,
    /// Reads the latest of one shard.
    Latest,
    /// Has met an intent; reads as of a timestamp now.
    NeedsSnapshot,
    Reading,
    /// `Commit` is sent.
    OneShard,
    /// The answer to it is lost.
    FindOut,
    /// `Prewrite` is sent to all shards.
    Prewriting,
    /// Not all answers have come to an asynchronous commit: asks what lies.
    Asking,
    /// All intents lie.
    NeedsTimestamp,
    Validating,
    /// `CommitPrimary` is sent.
    Deciding,
    /// The client has its answer.
    CleaningUp,
    Over,
}

/// What the client was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Told {
    #[default]
    Nothing,
    Committed,
    /// It has not happened, and never will.
    Failed,
    /// It may have happened, or may yet.
    Ambiguous,
}

/// What is being evaluated or replicated, under latches, for longer than a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Flight {
    #[default]
    None,
    /// A one-shard commit: checked, without a timestamp.
    Checked,
    /// A one-shard commit, proposed.
    Commit(Ts),
    /// The decision on a primary, at a timestamp that the leader drew, proposed.
    Decide(Ts),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Txn {
    pub phase: Phase,
    pub told: Told,
    pub crashed: bool,
    /// Who was acknowledged when this one began.
    pub before: u8,
    pub read_at: Ts,
    pub commit_at: Ts,
    /// Who wrote what it has read: 0 not read yet, 1 nobody, else 2 + the writer.
    pub seen: [u8; KEYS],
    /// Shards that have done what this phase asks of them.
    pub done: u8,
    /// Shards where a read has arrived, and found these writers' latches in its way.
    pub arrived: u8,
    pub waits_for: u8,
    /// Whose intents the request has met and not yet asked about.
    pub met: u8,
    /// What it knows of them.
    pub fates: [Fate; TXNS],
    /// The one-shard commit is in the network, not yet evaluated.
    pub commit_in_net: bool,
    /// Copies of its requests that are still in the network, their answers given up: `Prewrite`, by shard, …
    pub prewrite_copies: u8,
    /// … and `CommitPrimary`, with its timestamp.
    pub decide_copy: Option<Ts>,
    /// There were such copies.
    pub repeated: bool,
    /// While it has laid intents, so much time has passed that a record was swept: 1 of an abort, 2 of a commit.
    pub stale: u8,
    /// What is under way for it at a leader.
    pub flight: Flight,
}

/// The versions of a key, the oldest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Versions {
    /// Timestamp and 1 + the writer; zeros behind the last.
    slots: [(Ts, u8); VERSIONS],
}

impl Versions {
    pub fn iter(&self) -> impl Iterator<Item = (Ts, Id)> + '_ {
        self.slots.iter().take_while(|(at, _)| *at > 0).map(|(at, writer)| (*at, *writer as Id - 1))
    }

    /// The newest at or below a timestamp.
    pub fn at(&self, at: Ts) -> Option<(Ts, Id)> {
        self.iter().take_while(|(when, _)| *when <= at).last()
    }

    /// Whether there is one in `(after, upto]`.
    pub fn any_in(&self, after: Ts, upto: Ts) -> bool {
        self.iter().any(|(when, _)| when > after && when <= upto)
    }

    pub fn by(&self, writer: Id) -> impl Iterator<Item = Ts> + '_ {
        self.iter().filter(move |(_, by)| *by == writer).map(|(at, _)| at)
    }

    pub fn put(&mut self, at: Ts, writer: Id) {
        let entry = (at, writer as u8 + 1);
        if self.slots.contains(&entry) {
            return;
        }
        let last = &mut self.slots[VERSIONS - 1];
        assert!(*last == (0, 0), "more versions than there is room for");
        *last = entry;
        self.slots.sort_by_key(|(at, by)| (*at == 0, *at, *by));
    }
}

/// Someone finds out what became of an asynchronous commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Inquiry {
    /// 1 + whose; 0 for none.
    pub of: u8,
    /// Keys that have been probed, as bits.
    pub probed: u8,
    /// Of one of them no intent was found.
    pub missing: bool,
    /// The highest timestamp of those that were.
    pub at: Ts,
}

/// What an old leader still has on its disk (only for the mutation that does without leases).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Past {
    pub shard: usize,
    pub versions: [Versions; KEYS],
    pub intents: [u8; KEYS],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The last timestamp that the oracle gave out.
    pub clock: Ts,
    pub txns: [Txn; TXNS],
    // What shards have replicated.
    pub versions: [Versions; KEYS],
    /// 1 + the holder; 0 for none.
    pub intents: [u8; KEYS],
    /// What an asynchronous commit's intent was given; 0 for others.
    pub at_least: [Ts; KEYS],
    /// At each transaction's primary.
    pub records: [Fate; TXNS],
    /// Other keys with a record of abort, as bits.
    pub key_records: [u8; TXNS],
    // What leaders remember.
    /// Of each shard; 0: not drawn yet.
    pub floors: [Ts; SHARDS],
    /// What each transaction must commit above, at its primary's leader.
    pub pushed: [Ts; TXNS],
    // What is in the network.
    /// Someone knows the fate and sends `Resolve`.
    pub known: [Fate; TXNS],
    /// Transactions that have committed, and that someone takes for aborted.
    pub misled: u8,
    /// By whose they are, and of those who pass by.
    pub inquiries: [Inquiry; TXNS + 1],
    /// What the code asserts does not hold.
    pub defect: Option<&'static str>,
    // What may still go wrong.
    pub leader_changes: [u8; SHARDS],
    pub crashes: u8,
    /// Answers that come too late.
    pub losses: u8,
    /// Coordinators taken for dead that aren't.
    pub lapses: u8,
    /// How often so much time passes that old records are swept.
    pub sweeps: u8,
    pub closes: u8,
    /// Of each shard: what is closed …
    pub closed: [Ts; SHARDS],
    /// … and what is about to be, with those whose latches are in the way; zeros for nothing.
    pub closing: [(Ts, u8); SHARDS],
    pub past: Option<Box<Past>>,
}

impl State {
    pub fn draw(&mut self) -> Ts {
        self.clock += 1;
        self.clock
    }

    pub fn intent(&self, key: usize) -> Option<Id> {
        (self.intents[key] as Id).checked_sub(1)
    }

    pub fn lay(&mut self, key: usize, id: Id, at_least: Ts) {
        (self.intents[key], self.at_least[key]) = (id as u8 + 1, at_least);
    }

    pub fn remove_intent(&mut self, key: usize) {
        (self.intents[key], self.at_least[key]) = (0, 0);
    }

    pub fn has_intents(&self, id: Id) -> bool {
        self.intents.contains(&(id as u8 + 1))
    }

    /// Numbers the timestamps that still mean something without gaps.
    pub fn canonical(mut self) -> Self {
        let mut used = [false; 256];
        self.each_timestamp(|at| used[*at as usize] = true);
        let mut rank = [0; 256];
        let mut last = 0;
        for at in 1..LATEST as usize {
            if used[at] {
                last += 1;
                rank[at] = last;
            }
        }
        rank[LATEST as usize] = LATEST;
        self.each_timestamp(|at| *at = rank[*at as usize]);
        self.clock = last;
        self
    }

    fn each_timestamp(&mut self, mut visit: impl FnMut(&mut Ts)) {
        let fate = |fate: &mut Fate, visit: &mut dyn FnMut(&mut Ts)| {
            if let Fate::Committed(at) = fate {
                visit(at);
            }
        };
        let visit: &mut dyn FnMut(&mut Ts) = &mut visit;
        for txn in &mut self.txns {
            visit(&mut txn.read_at);
            visit(&mut txn.commit_at);
            txn.fates.iter_mut().for_each(|f| fate(f, visit));
            txn.decide_copy.iter_mut().for_each(&mut *visit);
            if let Flight::Commit(at) | Flight::Decide(at) = &mut txn.flight {
                visit(at);
            }
        }
        let past = self.past.iter_mut().flat_map(|past| &mut past.versions);
        for versions in self.versions.iter_mut().chain(past) {
            versions.slots.iter_mut().for_each(|(at, _)| visit(at));
        }
        self.records.iter_mut().chain(&mut self.known).for_each(|f| fate(f, visit));
        self.at_least.iter_mut().for_each(&mut *visit);
        self.inquiries.iter_mut().for_each(|inquiry| visit(&mut inquiry.at));
        self.closing.iter_mut().for_each(|(at, _)| visit(at));
        self.closed.iter_mut().for_each(&mut *visit);
        self.floors.iter_mut().chain(&mut self.pushed).for_each(visit);
    }
}
