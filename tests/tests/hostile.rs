//! Bad input: a clear error, the node stays up, nothing is lost.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::{Cluster, sqlstate};

fn garbage(seed: u64, bytes: usize) -> Vec<u8> {
    // A fixed sequence (xorshift), so that a failure repeats.
    let mut state = seed | 1;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

fn send(port: u16, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    // The node may hang up in the middle.
    let _ = socket.write_all(bytes);
    let _ = socket.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = socket.take(1 << 20).read_to_end(&mut answer);
    Ok(answer)
}

/// A startup packet for `user=root database=postgres`.
fn startup() -> Vec<u8> {
    let body = b"\0\x03\0\0user\0root\0database\0postgres\0\0";
    let mut packet = ((body.len() + 4) as u32).to_be_bytes().to_vec();
    packet.extend_from_slice(body);
    packet
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_survives_what_strangers_send() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let client = cluster.connect(1).await?;
    client
        .batch_execute("CREATE TABLE kept (id int PRIMARY KEY); INSERT INTO kept VALUES (1), (2), (3)")
        .await?;

    for port in [cluster.sql_port(1), cluster.rpc_port(1), cluster.http_port(1)] {
        for seed in 1..=20 {
            send(port, &garbage(seed * 7919, 4096))?;
        }
        send(port, &[])?;
    }
    // After a proper startup: an unknown message, a length that lies, a string that is not UTF-8, a short Bind.
    for tail in [
        b"!\0\0\0\x04".to_vec(),
        b"Q\0\0\0\x02".to_vec(),
        b"Q\0\0\0\x08ab\xff\0".to_vec(),
        b"B\0\0\0\x0a\0\0\0\x05\0\0".to_vec(),
        b"Q\x7f\xff\xff\xff".to_vec(),
    ] {
        let answer = send(cluster.sql_port(1), &[startup(), tail.clone()].concat())?;
        let shown = String::from_utf8_lossy(&answer).into_owned();
        ensure!(tail[1] == 0x7f || shown.contains("08P01") || shown.contains("22021"), "{tail:?}: {shown:?}");
    }
    // Clear text smuggled in behind an SSLRequest.
    let smuggled = [b"\0\0\0\x08\x04\xd2\x16\x2f".to_vec(), startup()].concat();
    let answer = String::from_utf8_lossy(&send(cluster.sql_port(1), &smuggled)?).into_owned();
    ensure!(answer.contains("unencrypted data"), "{answer:?}");

    // A parameter that no text can hold; a portal taken in two pieces, whose tag counts the last one's rows.
    let message =
        |kind: u8, body: &[u8]| [&[kind][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat();
    let nul = [
        startup(),
        message(b'P', b"\0SELECT $1::text\0\0\0"),
        message(b'B', b"\0\0\0\0\0\x01\0\0\0\x03a\0b\0\0"),
        message(b'S', b""),
    ];
    let answer = String::from_utf8_lossy(&send(cluster.sql_port(1), &nul.concat())?).into_owned();
    ensure!(answer.contains("22021"), "{answer:?}");
    let pieces = [
        startup(),
        message(b'P', b"\0SELECT * FROM generate_series(1, 3)\0\0\0"),
        message(b'B', b"\0\0\0\0\0\0\0\0"),
        message(b'E', b"\0\0\0\0\x02"),
        message(b'E', b"\0\0\0\0\x05"),
        message(b'S', b""),
    ];
    let answer = String::from_utf8_lossy(&send(cluster.sql_port(1), &pieces.concat())?).into_owned();
    ensure!(answer.contains("SELECT 1\0"), "{answer:?}");

    // Who has sent everything and closes that half still gets the answer, also if it takes a while.
    let last = [startup(), message(b'Q', b"SELECT count(*) FROM generate_series(1, 500000)\0")];
    let answer = String::from_utf8_lossy(&send(cluster.sql_port(1), &last.concat())?).into_owned();
    ensure!(answer.contains("500000"), "{answer:?}");

    // A statement of 100 MB.
    let large = format!("SELECT '{}'", "x".repeat(100 << 20));
    let error = client.batch_execute(&large).await.expect_err("too large");
    ensure!(sqlstate(&error) == "54000", "{error:?}");
    // The same connection goes on.
    ensure!(client.query_one("SELECT count(*) FROM kept", &[]).await?.get::<_, i64>(0) == 3);

    for (sql, state) in [
        ("FROBNICATE t", "42601"),
        ("SELECT 'abc'::int", "22P02"),
        ("SELECT 99999999999::int", "22003"),
        ("SELECT 2147483647 + 1", "22003"),
        ("SELECT 9223372036854775807 + 1", "22003"),
        ("SELECT 1 / 0", "22012"),
        ("SELECT 1 + 'x'::text", "42883"),
        ("SELECT nothing FROM kept", "42703"),
        ("SELECT * FROM nowhere", "42P01"),
        ("SELECT no_such_function(1)", "42883"),
        ("INSERT INTO kept VALUES (1)", "23505"),
        ("INSERT INTO kept VALUES (NULL)", "23502"),
        ("INSERT INTO kept VALUES ('abc')", "22P02"),
        ("CREATE TABLE kept (id int)", "42P07"),
        ("SELECT count(*) FROM kept FOR UPDATE", "0A000"),
        ("SELECT ", "42601"),
        ("SELECT * FROM kept WHERE", "42601"),
        ("LISTEN x", "0A000"),
        ("SELECT array_agg(id) FROM kept", "0A000"),
        ("SET extra_float_digits = 0", "0A000"),
        ("BEGIN; ALTER TABLE kept SPLIT AT VALUES (2)", "25001"),
        ("SELECT 1", "25P02"),
    ] {
        let Err(error) = client.batch_execute(sql).await else {
            if sql == "SELECT " {
                continue;
            } // an empty select list is PostgreSQL's own peculiarity
            anyhow::bail!("{sql} succeeded");
        };
        ensure!(sqlstate(&error) == state, "{sql}: {error:?} instead of {state}");
    }
    client.batch_execute("ROLLBACK").await?;
    let nested = format!("SELECT {}1{}", "(".repeat(50_000), ")".repeat(50_000));
    let error = client.batch_execute(&nested).await.expect_err("too deep");
    ensure!(sqlstate(&error) == "54001", "{error:?}");
    let long = format!("SELECT 1{}", " + 1".repeat(5_000));
    // Deep to the left: answered or refused, as long as the node lives.
    let _ = client.batch_execute(&long).await;

    ensure!(cluster.value(1, "SELECT count(*) FROM kept").await? == "3");
    ensure!(cluster.script(&["status"])?.matches(" yes ").count() == 3, "{}", cluster.script(&["status"])?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_over_the_limit_are_refused_with_53300() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let client = cluster.connect(1).await?;
    client.batch_execute("CREATE TABLE kept (id int PRIMARY KEY); INSERT INTO kept VALUES (1)").await?;
    // Half of what this process may have open at most, since the node on the same machine has its own limit.
    let wanted = 11_000;
    let mut open = Vec::with_capacity(wanted);
    let mut refused = 0;
    for n in 0..wanted {
        let Ok(mut socket) = TcpStream::connect(("127.0.0.1", cluster.sql_port(1))) else {
            break;
        };
        if n % 100 == 0 && n > 1000 {
            socket.set_read_timeout(Some(Duration::from_secs(5)))?;
            let _ = socket.write_all(&startup());
            let mut answer = vec![0; 512];
            let read = socket.read(&mut answer).unwrap_or(0);
            refused += usize::from(String::from_utf8_lossy(&answer[..read]).contains("53300"));
        }
        open.push(socket);
    }
    ensure!(
        open.len() < 1500 || refused > 0,
        "{} connections are open and none was refused with 53300",
        open.len()
    );
    // Those who are in go on.
    ensure!(client.query_one("SELECT count(*) FROM kept", &[]).await?.get::<_, i64>(0) == 1);
    drop(open);
    // And there is room again.
    for attempt in 0.. {
        match cluster.value(1, "SELECT count(*) FROM kept").await {
            Ok(count) => {
                ensure!(count == "1");
                break;
            }
            Err(error) if attempt > 100 => return Err(error).context("no connection is accepted any more"),
            Err(_) => tests::pause(100).await,
        }
    }
    Ok(())
}
