//! `flotilla admin check` finds damage, names it and says what to do: on a cluster of real processes, whose stores are damaged
//! while they are stopped.
//!
//! ```text
//!   sound ──▶ one replica lacks a row, another one has another value; and on all replicas alike: entries and links without
//!             rows, rows without entries or links, two rows with one key, NULL where there may be none, a CHECK, a row without
//!             what it refers to, a row that can't be read, a table without its name
//!         ──▶ mended as the command says: the tables are sound again
//!         ──▶ the meta-group's map gives a shard the keys of another one
//! ```
//!
//! What is altered keeps its timestamp, so that replicas stay equal where they should, and every snapshot sees it. What a
//! damaged row is to hold was written by SQL, into a table with the same columns and no constraints: stored rows know their
//! columns by number.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::Value as Json;
use storage::ids::{KeyRange, Timestamp};
use storage::seam::Seams;
use storage::{Batch, Cf, Engine, Store, StoreOptions, mvcc};
use tests::{Cluster, text};

const TABLES: &[&str] = &[
    "CREATE TABLE parent (id int PRIMARY KEY, code text UNIQUE, note text NOT NULL, amount int CHECK (amount > 0))",
    "CREATE UNIQUE INDEX parent_note ON parent (note)",
    "CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent, tag text)",
    "CREATE TABLE torn (id int PRIMARY KEY, v text)",
    "CREATE TABLE nameless (id int PRIMARY KEY)",
    "CREATE TABLE donor (id int PRIMARY KEY, code text, note text, amount int)",
    "CREATE TABLE spread (id int PRIMARY KEY, v text) WITH (sharding = 'hash', shards = 2)",
    "INSERT INTO parent SELECT g, 'code-' || g, 'note-' || g, g FROM generate_series(1, 8) AS g",
    "INSERT INTO child VALUES (1, 6, 'tag-orphan'), (2, 1, 'tag-unlinked'), (3, 1, 'tag-dangling')",
    "INSERT INTO torn VALUES (1, 'whole')",
    "INSERT INTO donor VALUES (5, 'code-4', 'note-5', 5), (7, 'code-7', NULL, 7), (8, 'code-8', 'note-8', -8)",
    "INSERT INTO spread SELECT g, 'spread-row ' || g FROM generate_series(1, 40) AS g",
];

/// What is to be found in tables, in whatever order: of which table, what it is about, the constraint, what is said.
const FINDINGS: &[&str] = &[
    "catalog: catalog names: the table \"public.nameless\" has no name",
    "parent: index parent_note: Key (id)=(2) has no entry for Key (note)=(note-2)",
    "parent: index parent_code_key: an entry leads to Key (id)=(3), which is not there",
    "parent: index parent_note: an entry leads to Key (id)=(3), which is not there",
    "parent: duplicate parent_code_key: Key (id)=(5) and Key (id)=(4) both have Key (code)=(code-4)",
    "parent: index parent_code_key: Key (code)=(code-5) leads to Key (id)=(5), which has other values",
    "parent: constraint note: is NULL in Key (id)=(7)",
    "parent: index parent_note: Key (note)=(note-7) leads to Key (id)=(7), which has other values",
    "parent: constraint parent_amount_check: is not satisfied in Key (id)=(8)",
    "child: reference child_parent_fkey: Key (id)=(1) refers to Key (parent)=(6), which is not present in table \"parent\"",
    "child: index child_parent_fkey: Key (id)=(2) has no link for Key (parent)=(1)",
    "child: index child_parent_fkey: an entry leads to Key (id)=(3), which is not there",
    "torn: row rows: Key (id)=(1) cannot be read: a stored row has format version 127, this release reads version 1 (XX001)",
];

/// What the command says of that, done.
const MENDING: &[&str] = &[
    "ALTER TABLE child DROP CONSTRAINT child_parent_fkey",
    "ALTER TABLE parent DROP CONSTRAINT parent_code_key",
    "DROP INDEX parent_note",
    "UPDATE parent SET code = 'code-5' WHERE id = 5",
    "UPDATE parent SET note = 'note-7' WHERE id = 7",
    "UPDATE parent SET amount = 8 WHERE id = 8",
    "INSERT INTO parent VALUES (6, 'code-6', 'note-6', 6)",
    "ALTER TABLE parent ADD CONSTRAINT parent_code_key UNIQUE (code)",
    "CREATE UNIQUE INDEX parent_note ON parent (note)",
    "ALTER TABLE child ADD CONSTRAINT child_parent_fkey FOREIGN KEY (parent) REFERENCES parent",
];

/// What all keys of a table begin with: its database's number and its own.
const TABLE_PREFIX_BYTES: usize = 8;
/// Where the keys of a table that is sharded by hash have the bucket: after the table's prefix and the number of its storage.
const BUCKET_AT: std::ops::Range<usize> = 12..14;
/// The catalog's rows that give tables their names.
const TABLE_NAMES: [u8; TABLE_PREFIX_BYTES] = [0, 0, 0, 1, 0, 0, 0, 4];

/// A row, or an entry of an index, as it is stored.
struct Record {
    key: Vec<u8>,
    at: Timestamp,
    value: Vec<u8>,
}

/// All under a prefix.
struct Records(Vec<Record>);

impl Records {
    fn under(engine: &Engine, prefix: &[u8]) -> Result<Self> {
        let view = engine.snapshot();
        let mut scan = mvcc::Scan::new(&view, &KeyRange::prefix(prefix), Timestamp::MAX, false);
        let mut found = Vec::new();
        while let Some(row) = scan.next()? {
            let value = row.value.unwrap_or_default().to_vec();
            found.push(Record { key: row.key.to_vec(), at: row.ts, value });
        }
        Ok(Self(found))
    }

    fn only(&self, what: &str, is: impl Fn(&Record) -> bool) -> Result<&Record> {
        let mut found = self.0.iter().filter(|record| is(record));
        let first = found.next().with_context(|| format!("there is no {what}"))?;
        ensure!(found.next().is_none(), "there is more than one {what}");
        Ok(first)
    }

    /// The row with this text in one of its columns.
    fn row(&self, text: &str) -> Result<&Record> {
        self.only(text, |record| has(&record.value, text))
    }

    /// The entry of a row under this text; a link has none.
    fn entry(&self, row: &Record, text: &str) -> Result<&Record> {
        let leads = |record: &Record| record.value == row.key[TABLE_PREFIX_BYTES..];
        self.only("entry of the row", |record| leads(record) && has(&record.key, text))
    }

    /// A row in a bucket.
    fn in_bucket(&self, bucket: u16, text: &str) -> Result<&Record> {
        let bucket = (bucket | (1 << 15)).to_be_bytes();
        let mut rows = self.0.iter().filter(|record| has(&record.value, text));
        rows.find(|record| record.key.get(BUCKET_AT) == Some(&bucket[..])).context("a row in the bucket")
    }
}

fn has(bytes: &[u8], text: &str) -> bool {
    text.is_empty() || bytes.windows(text.len()).any(|found| found == text.as_bytes())
}

fn put(batch: &mut Batch, record: &Record, value: &[u8]) {
    mvcc::put_version(batch, &record.key, record.at, Some(value));
}

/// As if it had been deleted.
fn remove(batch: &mut Batch, record: &Record) {
    mvcc::put_version(batch, &record.key, record.at, None);
}

/// Alters the store of a node that is stopped.
fn alter(
    cluster: &Cluster,
    node: usize,
    alteration: impl FnOnce(&Engine, &mut Batch) -> Result<()>,
) -> Result<()> {
    let dir = cluster.node_dir(node).join("store");
    let store = Store::open(&dir, StoreOptions::default(), Seams::real())?;
    let engine = store.engine();
    let mut batch = engine.batch();
    alteration(&engine, &mut batch)?;
    engine.write(batch)?;
    Ok(store.close()?)
}

/// What the keys of each table begin with.
struct Prefixes {
    parent: Vec<u8>,
    child: Vec<u8>,
    torn: Vec<u8>,
    donor: Vec<u8>,
    spread: Vec<u8>,
}

impl Prefixes {
    async fn of(cluster: &Cluster) -> Result<Self> {
        let of_table = async |table: &str| -> Result<Vec<u8>> {
            let sql = "SELECT oid::text FROM pg_database WHERE datname = current_database()";
            let database: u32 = cluster.value(1, sql).await?.parse()?;
            let sql = format!("SELECT '{table}'::regclass::oid::text");
            let table: u32 = cluster.value(1, &sql).await?.parse()?;
            Ok([database.to_be_bytes(), table.to_be_bytes()].concat())
        };
        Ok(Self {
            parent: of_table("parent").await?,
            child: of_table("child").await?,
            torn: of_table("torn").await?,
            donor: of_table("donor").await?,
            spread: of_table("spread").await?,
        })
    }
}

/// What is done to all replicas alike.
fn damage_tables(engine: &Engine, batch: &mut Batch, prefixes: &Prefixes) -> Result<()> {
    let parent = Records::under(engine, &prefixes.parent)?;
    let donor = Records::under(engine, &prefixes.donor)?;
    // An entry without which a row can't be found, and a row without which entries lead nowhere.
    remove(batch, parent.entry(parent.row("note-2")?, "note-2")?);
    remove(batch, parent.row("note-3")?);
    // The row has the key of another one now, and its own entry.
    put(batch, parent.row("note-5")?, &donor.row("note-5")?.value);
    // It is referred to.
    let gone = parent.row("note-6")?;
    for record in [gone, parent.entry(gone, "code-6")?, parent.entry(gone, "note-6")?] {
        remove(batch, record);
    }
    put(batch, parent.row("note-7")?, &donor.row("code-7")?.value);
    put(batch, parent.row("note-8")?, &donor.row("note-8")?.value);

    let child = Records::under(engine, &prefixes.child)?;
    remove(batch, child.entry(child.row("tag-unlinked")?, "")?);
    remove(batch, child.row("tag-dangling")?);

    let torn = Records::under(engine, &prefixes.torn)?;
    put(batch, torn.row("whole")?, &[127]);
    let names = Records::under(engine, &TABLE_NAMES)?;
    remove(batch, names.only("name", |record| record.key.ends_with(b"\0nameless"))?);
    Ok(())
}

/// What is done to one replica each.
fn damage_replicas(cluster: &Cluster, spread: &[u8]) -> Result<()> {
    alter(cluster, 3, |engine, batch| {
        let rows = Records::under(engine, spread)?;
        let row = rows.in_bucket(0, "spread-row")?;
        mvcc::remove_version(batch, &row.key, row.at);
        Ok(())
    })?;
    alter(cluster, 2, |engine, batch| {
        let rows = Records::under(engine, spread)?;
        let row = rows.in_bucket(1, "spread-row")?;
        let other: Vec<u8> = row.value.iter().map(|byte| if *byte == b's' { b'S' } else { *byte }).collect();
        put(batch, row, &other);
        Ok(())
    })
}

/// Has the meta-group's map give the system's shard the keys of database 2, too.
fn damage_map(engine: &Engine, batch: &mut Batch) -> Result<()> {
    // The end of the shard, as a field of its descriptor: the third one, four bytes.
    const END: &[u8] = &[(3 << 3) | 2, 4, 0, 0, 0, 2];
    let meta_group = 1_u64.to_be_bytes();
    let view = engine.snapshot();
    let mut rows = view.iter(Cf::Group, &KeyRange::prefix(&meta_group));
    rows.seek_to_first();
    while let Some((key, value)) = rows.item() {
        if let Some(at) = value.windows(END.len()).position(|found| found == END) {
            let mut altered = value.to_vec();
            altered[at + END.len() - 1] = 3;
            batch.put(Cf::Group, key, &altered);
        }
        rows.next();
    }
    rows.check()?;
    ensure!(batch.len() == 1, "{} shards end where database 2 begins", batch.len());
    Ok(())
}

/// What was found in tables, as in [`FINDINGS`].
fn findings(said: &Json) -> BTreeSet<String> {
    let tables = said["tables"].as_array().into_iter().flatten();
    let of_table = |table: &Json| {
        let name = table["table"].as_str().unwrap_or("catalog").to_owned();
        let found = table["findings"].as_array().cloned().unwrap_or_default();
        found.into_iter().map(move |finding| {
            let word = |field: &str| finding[field].as_str().unwrap_or("?").to_owned();
            format!("{name}: {} {}: {}", word("kind"), word("constraint"), word("detail"))
        })
    };
    tables.flat_map(of_table).collect()
}

/// The replicas that are not equal: group, where it begins, node, what is said of it.
fn unequal(said: &Json) -> Vec<(u64, String, String, String)> {
    let groups = said["groups"].as_array().into_iter().flatten();
    let of_group = |group: &Json| {
        let (id, start) =
            (group["group"].as_u64().unwrap_or(0), group["start"].as_str().unwrap_or("").to_owned());
        let replicas = group["replicas"].as_array().cloned().unwrap_or_default();
        replicas.into_iter().filter(|replica| replica["state"] != "equal").map(move |replica| {
            let told = format!("{}: {}", replica["state"], replica["detail"]).replace('"', "");
            (id, start.clone(), format!("n{}", replica["node"]), told)
        })
    };
    groups.flat_map(of_group).collect()
}

fn settle(cluster: &Cluster) -> Result<()> {
    cluster.script(&["up"])?;
    cluster.admin(1, &["status", "--wait", "60"]).map(|_| ())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kind_of_damage_is_found_and_named_and_what_is_advised_mends_it() -> Result<()> {
    let cluster = Cluster::start(3)?;
    // Nothing is replaced by the cluster itself meanwhile.
    cluster.admin(1, &["settings", "set", "consistency_check_interval", "3650days"])?;
    let client = cluster.connect(1).await?;
    for sql in TABLES {
        client.batch_execute(sql).await.context(*sql)?;
    }
    drop(client);
    let prefixes = Prefixes::of(&cluster).await?;
    let (second, third) = (cluster.name(2)?, cluster.name(3)?);
    let sound = cluster.check(&["--all"])?;
    ensure!(sound.status.code() == Some(0), "{}", text(&sound));
    // The second look sees to it that every replica has applied what the first has brought to an end.
    let sound = cluster.check(&["--json"])?;
    ensure!(sound.status.code() == Some(0), "{}", text(&sound));
    let said: Json = serde_json::from_slice(&sound.stdout)?;
    ensure!(findings(&said).is_empty() && unequal(&said).is_empty(), "{said:#}");
    ensure!(
        said["advice"].as_array().is_some_and(Vec::is_empty) && said["map"] == said["advice"],
        "{said:#}"
    );

    cluster.script(&["down"])?;
    for node in 1..=3 {
        alter(&cluster, node, |engine, batch| damage_tables(engine, batch, &prefixes))?;
    }
    damage_replicas(&cluster, &prefixes.spread)?;
    settle(&cluster)?;

    let output = cluster.check(&["--json"])?;
    ensure!(output.status.code() == Some(8), "{}\n{}", text(&output), cluster.logs());
    let said: Json = serde_json::from_slice(&output.stdout)?;
    let expected: BTreeSet<String> = FINDINGS.iter().map(|finding| (*finding).to_owned()).collect();
    let found = findings(&said);
    ensure!(
        found == expected,
        "not found: {:#?}\nfound beside that: {:#?}\n{said:#}",
        expected.difference(&found).collect::<Vec<_>>(),
        found.difference(&expected).collect::<Vec<_>>()
    );
    let mut differ = unequal(&said);
    differ.sort_by(|one, other| one.3.cmp(&other.3));
    let [lacks, other] = &differ[..] else {
        anyhow::bail!("{differ:?}\n{said:#}");
    };
    ensure!((&lacks.2, &lacks.3[..]) == (&third, "differs: data: -1 rows"), "{differ:?}");
    ensure!((&other.2, &other.3[..]) == (&second, "differs: data: other rows"), "{differ:?}");
    let spread: String = prefixes.spread.iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(
        lacks.0 != other.0 && differ.iter().all(|(_, start, ..)| start.starts_with(&spread)),
        "{differ:?}"
    );

    // The same for people.
    let output = cluster.check(&[])?;
    let told = text(&output);
    ensure!(output.status.code() == Some(8), "{told}");
    for (group, _, node, _) in &differ {
        let named =
            |line: &&str| line.starts_with(&format!("g{group} ")) && line.contains(&format!(" {node} "));
        let line = told.lines().find(named).with_context(|| format!("g{group} on {node}: {told}"))?;
        ensure!(line.contains("differs") && line.contains("data: "), "{line}");
    }
    for finding in FINDINGS {
        let detail = finding.splitn(3, ": ").last().context("a detail")?;
        ensure!(told.contains(detail), "{detail}: {told}");
    }
    for word in [
        "postgres.public.parent",
        "parent_note",
        "What to do:",
        "DROP CONSTRAINT",
        "consistency_check_interval",
    ] {
        ensure!(told.contains(word), "{word}: {told}");
    }
    ensure!(
        told.contains("2 differ, 0 not looked at") && told.contains("4 not consistent, 0 not looked at"),
        "{told}"
    );

    let client = cluster.connect(2).await?;
    for sql in MENDING {
        client.batch_execute(sql).await.with_context(|| format!("{sql}\n{}", cluster.logs()))?;
    }
    drop(client);
    let output = cluster.check(&["--table", "parent", "--table", "child"])?;
    ensure!(output.status.code() == Some(0), "{}", text(&output));
    ensure!(text(&output).contains("2 tables, 9 rows"), "{}", text(&output));

    the_map_is_held_against_the_shards(&cluster)
}

/// Nobody but the meta-group is wrong, so that everything is served still: of two shards that claim a key, that is asked which
/// begins nearest before it.
fn the_map_is_held_against_the_shards(cluster: &Cluster) -> Result<()> {
    let shards = cluster.admin_json(1, &["shards"])?;
    let epochs = shards.as_array().into_iter().flatten();
    let epochs: Vec<(u64, u64)> =
        epochs.filter_map(|shard| Some((shard["group"].as_u64()?, shard["epoch"].as_u64()?))).collect();
    let (_, system) = epochs.iter().find(|(group, _)| *group == 2).context("the system's shard")?;
    // Otherwise the other one would be taken for absorbed.
    ensure!(epochs.iter().all(|(_, epoch)| epoch >= system), "{shards:#}");

    cluster.script(&["down"])?;
    for node in 1..=3 {
        alter(cluster, node, damage_map)?;
    }
    settle(cluster)?;
    let output = cluster.check(&["--only", "replicas", "--json"])?;
    ensure!(output.status.code() == Some(8), "{}\n{}", text(&output), cluster.logs());
    let said: Json = serde_json::from_slice(&output.stdout)?;
    let told: Vec<&str> = said["map"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
    ensure!(told.len() == 2 && told[0] == "g2 and g3 hold the same keys", "{said:#}");
    ensure!(
        told[1].starts_with("g2 is from -∞ to /3, with ") && told[1].contains("from -∞ to /2, with "),
        "{told:?}"
    );
    ensure!(text(&output).contains("the map: g2 and g3 hold the same keys"), "{}", text(&output));
    let advice = said["advice"].to_string();
    ensure!(advice.contains("The word of a shard's own replicas counts"), "{advice}");
    Ok(())
}
