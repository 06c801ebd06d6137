//! Answers SQL clients while there is no SQL to be had yet: `57P03`, and why.
//!
//! It speaks just enough of PostgreSQL's protocol to be understood: requests for encryption are declined, whatever
//! comes then is answered with one error and the end of the connection.

use std::sync::Arc;
use std::time::Duration;

use storage::seam::Seams;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::readiness::Readiness;

/// Connections answered at a time; more are closed without a word.
const ANSWERS_MAX: usize = 1_024;
/// A client that sends nothing for so long gets nothing.
const PATIENCE: Duration = Duration::from_secs(5);
/// A startup packet is not larger.
const STARTUP_BYTES_MAX: u32 = 10_000;

const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;

/// Answers until cancelled; gives the listener back, for the SQL server.
pub async fn serve(
    listener: TcpListener,
    readiness: Arc<Readiness>,
    seams: Seams,
    until: CancellationToken,
) -> TcpListener {
    let permits = Arc::new(Semaphore::new(ANSWERS_MAX));
    loop {
        let accepted = tokio::select! {
            () = until.cancelled() => return listener,
            accepted = listener.accept() => accepted,
        };
        let Ok((socket, _)) = accepted else {
            seams.sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(permit) = permits.clone().try_acquire_owned() else { continue };
        let reason = readiness.reason().unwrap_or_else(|| "starting".into());
        let patience = seams.clock.sleep(PATIENCE);
        seams.spawn("sql not ready", async move {
            tokio::select! {
                // A client that leaves early has lost nothing.
                _ = answer(socket, &reason) => {}
                () = patience => {}
            }
            drop(permit);
        });
    }
}

async fn answer(mut socket: TcpStream, reason: &str) -> std::io::Result<()> {
    // At most one request each for TLS and GSSAPI, then the real startup packet.
    for _ in 0..3 {
        let length = socket.read_u32().await?;
        if !(8..=STARTUP_BYTES_MAX).contains(&length) {
            return Ok(());
        }
        let mut body = vec![0; length as usize - 4];
        socket.read_exact(&mut body).await?;
        match u32::from_be_bytes([body[0], body[1], body[2], body[3]]) {
            SSL_REQUEST | GSS_REQUEST => socket.write_all(b"N").await?,
            _ => break,
        }
    }
    socket.write_all(&refusal(reason)).await?;
    socket.shutdown().await
}

fn refusal(reason: &str) -> Vec<u8> {
    let mut fields = Vec::new();
    let detail = format!("Flotilla: {reason}");
    for (kind, text) in [
        (b'S', "FATAL"),
        (b'V', "FATAL"),
        (b'C', "57P03"),
        (b'M', "the database system is starting up"),
        (b'D', &detail),
    ] {
        fields.push(kind);
        fields.extend_from_slice(text.as_bytes());
        fields.push(0);
    }
    fields.push(0);
    let mut message = vec![b'E'];
    message.extend_from_slice(&(fields.len() as u32 + 4).to_be_bytes());
    message.extend_from_slice(&fields);
    message
}
