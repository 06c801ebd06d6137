//! What a node's process tells of itself (`/metrics`), and what Linux counts for it (`/proc`).

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::cluster::Cluster;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A node's metrics, as they were at one moment.
pub(crate) struct Metrics(String);

impl Metrics {
    /// Asks a node.
    pub async fn of(cluster: &Cluster, node: usize) -> Result<Self> {
        let asking = tokio::time::timeout(ANSWER_TIMEOUT, fetch(cluster.http_port(node)));
        let answer = asking.await.context("no answer in time")?;
        Ok(Self(answer.with_context(|| format!("the metrics of node {node}"))?))
    }

    /// The sum of a metric's samples that have this label (`direction="sent"`; the empty one: of all); none if there are none.
    pub fn value(&self, name: &str, label: &str) -> Option<f64> {
        let samples = self.0.lines().filter_map(|line| sample(line, name));
        let mut wanted =
            samples.filter(|(labels, _)| label.is_empty() || labels.split(',').any(|one| one == label));
        let (_, first) = wanted.next()?;
        Some(wanted.fold(first, |sum, (_, value)| sum + value))
    }
}

async fn fetch(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// A line of Prometheus's format, if it is of this metric: its labels and its value.
fn sample<'a>(line: &'a str, name: &str) -> Option<(&'a str, f64)> {
    let rest = line.strip_prefix(name)?;
    let (labels, value) = match rest.strip_prefix('{') {
        Some(labelled) => labelled.rsplit_once('}')?,
        None => ("", rest),
    };
    // Another metric's name may begin with this one's.
    Some((labels, value.strip_prefix(' ')?.trim().parse().ok()?))
}

/// The id of a node's process, as the script noted it.
pub(crate) async fn process(cluster: &Cluster, node: usize) -> Result<String> {
    let path = cluster.pid_file(node);
    let pid = tokio::fs::read_to_string(&path).await.with_context(|| path.display().to_string())?;
    Ok(pid.trim().to_owned())
}

/// A size of a node's process, in kilobytes: `VmRSS` is what is resident, `VmHWM` the most that ever was.
pub(crate) async fn kilobytes(cluster: &Cluster, node: usize, field: &str) -> Result<f64> {
    let path = format!("/proc/{}/status", process(cluster, node).await?);
    let status = tokio::fs::read_to_string(&path).await.context(path)?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.with_context(|| format!("no {field}"))?.parse().context("a number")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_the_sum_of_its_own_samples() {
        let metrics = Metrics(
            "# TYPE flotilla_bytes_total counter\n\
             flotilla_bytes_total{direction=\"sent\",cf=\"data\"} 12\n\
             flotilla_bytes_total{direction=\"sent\",cf=\"intents\"} 3.5\n\
             flotilla_bytes_total{direction=\"received\",cf=\"data\"} 100\n\
             flotilla_bytes_total_of_another 7\n\
             flotilla_bytes 1e3\r\n"
                .to_owned(),
        );
        assert_eq!(metrics.value("flotilla_bytes_total", "direction=\"sent\""), Some(15.5));
        assert_eq!(metrics.value("flotilla_bytes_total", ""), Some(115.5));
        assert_eq!(metrics.value("flotilla_bytes", ""), Some(1_000.0));
        assert_eq!(metrics.value("flotilla_bytes_total", "direction=\"lost\""), None);
        assert_eq!(metrics.value("flotilla", ""), None);
    }
}
