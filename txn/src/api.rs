//! What the SQL layer sees of transactions: [`Database`] and [`Transaction`].
//!
//! Keys and values are opaque bytes here. The traits exist so that SQL can be tested without a cluster; the
//! product has one implementation, `crate::coordinator`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use storage::ids::{Epoch, GroupId, KeyRange, NodeId, Timestamp, TxnId};

use crate::order::{Observed, Order};
use crate::{Error, LockMode, SessionId};

/// A key in the cluster's one keyspace.
pub type Key = Bytes;
/// A row's value.
pub type Value = Bytes;

/// How much of the world a transaction is isolated from. At every level no row is lost: what a transaction has locked, or read
/// to write it, is checked by its commit to be unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Isolation {
    /// Strict serializability: reads are validated at commit.
    #[default]
    Serializable,
    /// Snapshot isolation: one snapshot, which does not move once it was used by a statement that is over. Whoever
    /// locks a row that has changed since fails; the first one to update a row wins.
    Snapshot,
    /// Each statement ([`Transaction::statement`]) has a snapshot of its own. Locking reads a row at the latest.
    ReadCommitted,
}

/// How a transaction is begun.
#[derive(Clone, Debug, Default)]
pub struct BeginOptions {
    /// The isolation level.
    pub isolation: Isolation,
    /// Refuses writes.
    pub read_only: bool,
    /// The session that it belongs to: its waits count as the session's.
    pub session: Option<SessionId>,
    /// Reads as of this moment, in the past: wherever it is closed, without asking leaders. Such a transaction is read-only.
    pub as_of: Option<Timestamp>,
    /// Its waits for row locks count as a part of a deadlock after this time. Less than 300 ms, or `None`: after 300 ms.
    pub deadlock_after: Option<std::time::Duration>,
}

/// What must hold of a key for a write to be allowed; checked under latches when the transaction commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing beyond the isolation level's own conflict checks.
    Any,
    /// No row stands under the key, at the latest. Otherwise the commit fails with [`Error::AlreadyExists`].
    Absent,
}

/// One buffered write.
#[derive(Clone, Debug)]
pub struct Write {
    /// Where.
    pub key: Key,
    /// The new value; `None` deletes.
    pub value: Option<Value>,
    /// The condition.
    pub expect: Expect,
}

/// The schema version under which a statement was planned, to be checked by every shard that it touches.
///
/// Each shard that overlaps `prefix` keeps a *fence*: a version as an ordinary MVCC value. A read or a commit that
/// carries a fence is refused with [`Error::FenceMismatch`] by a shard whose fence (as of the read's timestamp; at the
/// latest for a commit) differs: the statement is planned again with a fresh catalog. A schema change writes the new
/// version with [`Transaction::write_fence`] in its own transaction, atomically with the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fence {
    /// The keys that this fence stands for (a table's prefix).
    pub prefix: Key,
    /// The version.
    pub version: u64,
}

/// How rows are locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locking {
    /// How strongly.
    pub mode: LockMode,
    /// What to do when others have locked them.
    pub wait: LockWait,
}

/// What to do about a row that another transaction has locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockWait {
    /// Wait for so long; `None`: until it is free.
    For(Option<Duration>),
    /// Fail with [`Error::Locked`].
    Never,
    /// Leave the row out.
    Skip,
}

/// A row that was to be locked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockedRow {
    /// It is, and this is its value as of the snapshot, or what the transaction itself has written.
    Held(Option<Value>),
    /// Another transaction has locked it.
    Skipped,
}

impl LockedRow {
    /// The row, if it is locked and there is one.
    pub fn value(self) -> Option<Value> {
        match self {
            LockedRow::Held(value) => value,
            LockedRow::Skipped => None,
        }
    }
}

/// A page of a range scan.
#[derive(Clone, Debug, Default)]
pub struct ScanPage {
    /// Keys and values, in key order (descending for a reverse scan). Deleted rows are left out.
    pub rows: Vec<(Key, Value)>,
    /// What is left to scan; `None` when the range is exhausted.
    pub rest: Option<KeyRange>,
}

/// What is asked of [`Transaction::scan`].
#[derive(Clone, Debug)]
pub struct ScanRequest {
    /// The range.
    pub range: KeyRange,
    /// From the end to the start.
    pub reverse: bool,
    /// At most this many rows in the page. The implementation also bounds a page's bytes (about 1 MiB).
    pub rows_max: usize,
}

/// A shard, as listed to operators and used to plan parallel scans.
#[derive(Clone, Debug)]
pub struct ShardInfo {
    /// The Raft group.
    pub group: GroupId,
    /// The keys it holds.
    pub range: KeyRange,
    /// The descriptor's version.
    pub epoch: Epoch,
    /// The nodes that hold a replica.
    pub replicas: Vec<NodeId>,
    /// The node that leads, as far as is known.
    pub leader: Option<NodeId>,
    /// Up to where the replica of the node that was asked has it closed; `None`: it has none, or has closed nothing.
    pub closed: Option<Timestamp>,
}

/// One transaction. All methods take `&self`: scans may run in parallel. A transaction that is dropped without
/// `commit` is rolled back in the background.
#[async_trait]
pub trait Transaction: Send + Sync + 'static {
    /// The transaction's identity.
    fn id(&self) -> TxnId;

    /// The snapshot's timestamp; drawn at the first use.
    async fn read_timestamp(&self) -> Result<Timestamp, Error>;

    /// Point reads, answered in the order of `keys`, as of the snapshot and with this transaction's own writes.
    /// The keys that were read are validated at commit under `Serializable`.
    async fn get(&self, keys: &[Key], fences: &[Fence]) -> Result<Vec<Option<Value>>, Error>;

    /// One page of a range, as of the snapshot and with this transaction's own writes. The part of the range that
    /// the page covered is validated at commit under `Serializable`.
    async fn scan(&self, request: ScanRequest, fences: &[Fence]) -> Result<ScanPage, Error>;

    /// Buffers writes; a later write to a key replaces an earlier one (and keeps the earlier one's `Absent`
    /// condition). Past a byte bound the buffer is sent to the shards early, as intents. `fences` are checked when
    /// the writes reach their shards.
    async fn write(&self, writes: Vec<Write>, fences: &[Fence]) -> Result<(), Error>;

    /// Sets the fence of `prefix` in every shard that overlaps it; `None` removes it (the table is dropped).
    async fn write_fence(&self, prefix: Key, version: Option<u64>) -> Result<(), Error>;

    /// Locks rows and reads them; in the order of `keys`. The locks are kept until the transaction ends. They keep others
    /// who lock from changing the rows, but nothing more is promised: locks are lost with their shard's leader, and the
    /// commit checks everything all the same.
    ///
    /// A row that has changed since the snapshot moves the snapshot, if nothing else that was read has changed; otherwise
    /// this is [`Error::Conflict`] ([`Error::Changed`] under `Snapshot`), and [`Transaction::retry_statement`] may help.
    /// Under `ReadCommitted` the rows are read at the latest, and it is for the caller to look at them again.
    /// [`Error::Deadlock`] if transactions wait in a circle and this one was chosen to be ended.
    async fn lock(&self, keys: &[Key], how: Locking, fences: &[Fence]) -> Result<Vec<LockedRow>, Error>;

    /// Locks keys under which rows are to be inserted, and tells what stands there at the latest, whatever the snapshot.
    /// Not for `Serializable`, where the snapshot decides.
    async fn lock_latest(
        &self,
        keys: &[Key],
        how: Locking,
        fences: &[Fence],
    ) -> Result<Vec<LockedRow>, Error> {
        self.lock(keys, how, fences).await
    }

    /// Has others wait who want to write under `fence.prefix`, or to change the fence, until this transaction ends, and waits for
    /// those whose intents lie there: for a change of schema that reads all rows, and would be refused for each one that comes
    /// meanwhile. Readers go on. Like any lock it promises nothing; the commit checks everything all the same. To be
    /// called before anything is read. A no-op if the transaction has set the fence itself.
    async fn lock_table(&self, fence: &Fence, wait: LockWait) -> Result<(), Error> {
        let _ = (fence, wait);
        Ok(())
    }

    /// Asks whether rows stand under keys, in the order of `keys`, and demands that those which do are there when the transaction
    /// commits (a row, not this one: it may be changed meanwhile). Otherwise the commit fails with [`Error::Conflict`]. What the
    /// transaction itself makes of them afterwards is its own affair.
    ///
    /// Under `Serializable` they are looked at as of the snapshot, and an absence is a read like any other. Below, the keys are
    /// locked and looked at as they are at the latest, whatever the snapshot.
    async fn demand(&self, keys: &[Key], how: Locking, fences: &[Fence]) -> Result<Vec<bool>, Error> {
        let _ = how;
        Ok(self.get(keys, fences).await?.iter().map(Option::is_some).collect())
    }

    /// Below `Serializable`: the transaction with a snapshot of its own, not yet drawn, so that it sees everything that is committed
    /// by then. What is read through it is validated by the commit. `None`: the transaction itself does as well.
    fn latest(&self) -> Option<Arc<dyn Transaction>> {
        None
    }

    /// What was read through such a view needs no validation: it is read once more, through another.
    fn forget_reads(&self) {}

    /// The transaction as its next statement sees it: under `ReadCommitted` with a snapshot of its own, which it keeps for as
    /// long as rows are taken from it. `None`: the transaction itself. `strict`: what the statement reads is validated at
    /// commit, whatever the level (schema changes).
    fn statement(&self, strict: bool) -> Option<Arc<dyn Transaction>> {
        let _ = strict;
        None
    }

    /// The isolation level.
    fn isolation(&self) -> Isolation {
        Isolation::Serializable
    }

    /// Whether a commit is under way whose outcome could not be known if it were given up now.
    fn in_doubt(&self) -> bool {
        false
    }

    /// A statement begins that may have to be run again: what has been read up to here is remembered.
    fn begin_statement(&self);

    /// Forgets what the statement has read and written (since the mark) and moves the snapshot to the present, so that the
    /// statement can be run again; the locks are kept. False: what was read before the statement has changed, too.
    async fn retry_statement(&self, savepoint: u64) -> Result<bool, Error>;

    /// Tries to move the snapshot to the present, which is possible when nothing that was read has changed since.
    /// Returns whether it moved. Called before a statement that writes, it makes conflicts rarer.
    async fn refresh(&self) -> Result<bool, Error>;

    /// A mark in the transaction's writes, to roll back to.
    fn savepoint(&self) -> u64;

    /// From now on it must be possible to go back to this mark and later ones, even if writes are sent early; `None`: to none
    /// (a statement's own mark may then be lost with an early flush).
    fn keep_marks(&self, since: Option<u64>) {
        let _ = since;
    }

    /// Undoes the writes since the mark; locks are kept. Fails with [`Error::Unsupported`] if some of them were sent early
    /// and the mark was not kept.
    async fn rollback_to(&self, savepoint: u64) -> Result<(), Error>;

    /// Commits; the timestamp is that of the commit, or somewhat later (for a transaction without writes, that of its snapshot).
    /// [`Error::Ambiguous`] when the outcome cannot be known. The future may be dropped: unless the transaction is
    /// [`Transaction::in_doubt`] then, it has had no effect and never will.
    async fn commit(&self) -> Result<Timestamp, Error>;

    /// Rolls back. Cannot fail: what can't be reached now is cleaned up by whoever meets it.
    async fn rollback(&self);
}

/// The advisory locks of one session, at the leader of their shard.
///
/// They guard nothing in the database. What is promised: when [`SessionLocks::confirm`] returns `Ok`, the session held all of
/// them at a moment since it was called, and has held them without a gap since they were granted. Locks can be lost (their
/// shard has no leader for too long, or this node is cut off from it); then all of them are lost for good.
#[async_trait]
pub trait SessionLocks: Send + Sync + 'static {
    /// Takes a lock, or strengthens one that is held. Only [`LockMode::Share`] and [`LockMode::Update`]. False: another session
    /// has it, and waiting was not wanted. All keys of a session must lie in one shard.
    async fn lock(&self, key: &Key, mode: LockMode, wait: LockWait) -> Result<bool, Error>;

    /// Lets locks go, or weakens them. Cannot fail: what can't be told to the leader now is told it later.
    async fn lower(&self, locks: Vec<(Key, Option<LockMode>)>);

    /// Lets all locks go.
    async fn release(&self);

    /// Waits until it is certain that the locks are held. [`Error::LocksLost`] if they aren't any more.
    async fn confirm(&self) -> Result<(), Error>;

    /// Whether the locks are lost.
    fn is_lost(&self) -> bool;

    /// Completes when the locks are lost.
    fn lost(&self) -> BoxFuture<'static, ()>;
}

/// One lock or wait.
#[derive(Clone, Debug)]
pub struct LockInfo {
    /// What is locked: a row, or an advisory lock.
    pub key: Key,
    /// Who has it, or wants it: a transaction; of an advisory lock, a session.
    pub owner: TxnId,
    /// The session, where it is known.
    pub session: Option<SessionId>,
    /// How strongly.
    pub mode: LockMode,
    /// It is held, not waited for.
    pub granted: bool,
    /// For how long.
    pub age: Duration,
}

/// What a node knows of one of its sessions, or of a transaction of one.
#[derive(Clone, Debug)]
pub struct Activity {
    /// The session.
    pub session: SessionId,
    /// The transaction that was asked about, or that is open.
    pub txn: Option<TxnId>,
    /// The statement that runs or ran last, cut.
    pub statement: String,
    /// What the client calls itself.
    pub application: String,
}

/// Who knows a node's sessions.
pub trait Witness: Send + Sync + 'static {
    /// What is known of these sessions and transactions, in order.
    fn describe(&self, ids: &[TxnId]) -> Vec<Option<Activity>>;
}

/// The cluster, seen from one node.
#[async_trait]
pub trait Database: Send + Sync + 'static {
    /// Begins a transaction; no message is sent yet.
    fn begin(&self, options: BeginOptions) -> Arc<dyn Transaction>;

    /// Reads keys at the latest, outside any transaction: one round trip, without the oracle, when one shard holds
    /// them all; otherwise as a read-only transaction of its own.
    async fn get_latest(&self, keys: &[Key], fences: &[Fence]) -> Result<Vec<Option<Value>>, Error>;

    /// Whether a read of `key` would be answered, as far as this node knows without asking anybody: to ask keeps a shard from rest.
    /// "No" says that one has to ask to know.
    fn seems_served(&self, _key: &Key) -> bool {
        false
    }

    /// The shards that overlap `range`, in key order.
    async fn shards(&self, range: &KeyRange) -> Result<Vec<ShardInfo>, Error>;

    /// Makes each of `keys` the start of a shard. Keys that already are, are skipped. With `spread`, the leaders of the
    /// shards that begin at these keys are spread over the nodes. Returns when the shards serve.
    async fn split(&self, keys: &[Key], spread: bool) -> Result<(), Error>;

    /// Says what is wanted of the replicas of the shards that begin with a table's prefix: how many (0: as many as for all), and
    /// where (in words that the meta-group understands; empty: anywhere). [`Error::Invalid`] says what is wrong with the words.
    /// Returns what of it can't be had with the nodes there are, for whoever has said it.
    async fn set_placement(
        &self,
        _prefix: &Key,
        _replicas: u32,
        _places: &str,
    ) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }

    /// Removes all versions of all keys in `range`, without a transaction: for what no snapshot can reach any more. The
    /// fences that shards keep at their starts stay, as do the fates of transactions.
    async fn clear_range(&self, range: &KeyRange) -> Result<(), Error>;

    /// Says that no key in `range` is ever used again: what was wanted of the replicas of tables in it is forgotten,
    /// and shards that begin in it may be merged.
    async fn vacate(&self, _range: &KeyRange) -> Result<(), Error> {
        Ok(())
    }

    /// A fresh timestamp from the oracle.
    async fn timestamp(&self) -> Result<Timestamp, Error>;

    /// A timestamp that the oracle has given this node, the newest, and how long ago that was: for whom the past will do.
    fn recent(&self) -> Option<(Timestamp, Duration)> {
        None
    }

    /// The nodes of the cluster: id, SQL address, whether it is alive.
    async fn nodes(&self) -> Result<Vec<NodeInfo>, Error>;

    /// What is under way in the cluster, on its own or an operator's account.
    async fn operations(&self) -> Result<Vec<OperationInfo>, Error> {
        Ok(Vec::new())
    }

    /// What can be set for the whole cluster, and is.
    async fn settings(&self) -> Result<Vec<SettingInfo>, Error> {
        Ok(Vec::new())
    }

    /// Has the cluster do what an operator wants; answers what was begun, or done. [`Error::Invalid`] says why it is refused.
    async fn order(&self, _order: Order) -> Result<String, Error> {
        Err(Error::Unsupported("there is no cluster to be operated".to_owned()))
    }

    /// What the cluster has told of itself lately.
    async fn observed(&self) -> Result<Observed, Error> {
        Ok(Observed::default())
    }

    /// A name for a session of this node.
    fn session(&self, pid: i32) -> SessionId;

    /// The advisory locks of a session: none yet.
    fn session_locks(&self, session: SessionId) -> Arc<dyn SessionLocks>;

    /// The locks in all shards that overlap `range`, at most `rows_max` of each. Shards that can't be asked now are left out.
    async fn locks(&self, range: &KeyRange, rows_max: u32) -> Result<Vec<LockInfo>, Error>;

    /// What the nodes know of sessions or transactions, in order. Nodes that can't be asked now know nothing.
    async fn describe(&self, ids: &[TxnId]) -> Vec<Option<Activity>>;

    /// Says who knows this node's sessions.
    fn set_witness(&self, witness: Arc<dyn Witness>);

    /// How long a request to the cluster may take before it fails with [`Error::Unavailable`].
    fn request_timeout(&self) -> Duration {
        Duration::from_secs(10)
    }
}

/// A node, as listed to operators.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// Its identity.
    pub id: NodeId,
    /// Where it serves SQL.
    pub sql_address: String,
    /// Where it serves other nodes.
    pub rpc_address: String,
    /// Whether the meta-group has heard of it lately.
    pub alive: bool,
    /// What its operator wants of it, in a word.
    pub duty: &'static str,
}

/// Something that is under way in the cluster.
#[derive(Clone, Debug)]
pub struct OperationInfo {
    /// What it can be cancelled by; empty: it can't.
    pub id: String,
    /// What kind of thing.
    pub kind: String,
    /// What it is done to.
    pub subject: String,
    /// How far it is.
    pub state: String,
}

/// Something that can be set for the whole cluster.
#[derive(Clone, Debug)]
pub struct SettingInfo {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// What holds if nothing is set.
    pub default: String,
    /// One line.
    pub description: String,
}
