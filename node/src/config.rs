//! What a server is told: flags, and a TOML file with the same names. Flags win.

use std::path::{Path, PathBuf};

use clap::Args;
use meta::placement::{Locality, LocalityError};
use serde::Deserialize;

use crate::exit::Failure;

/// Where a node listens unless told otherwise.
pub const DEFAULT_SQL: &str = "127.0.0.1:7401";
/// … for other nodes and for operators.
pub const DEFAULT_RPC: &str = "127.0.0.1:7421";
/// … for probes and metrics.
pub const DEFAULT_HTTP: &str = "127.0.0.1:7441";

/// Settings of `start` and `start-single-node`. In the file, `_` and `-` are alike, and `join` is a list.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// Directory of the store; made if it does not exist
    #[arg(long, value_name = "DIR")]
    #[serde(alias = "store_dir")]
    pub store: Option<PathBuf>,

    /// Where clients connect with PostgreSQL's protocol [default: 127.0.0.1:7401]
    #[arg(long, value_name = "ADDR")]
    #[serde(alias = "listen_sql")]
    pub listen_sql: Option<String>,

    /// Where other nodes and operators connect [default: 127.0.0.1:7421]
    #[arg(long, value_name = "ADDR")]
    #[serde(alias = "listen_rpc")]
    pub listen_rpc: Option<String>,

    /// Where /health, /ready and /metrics are served [default: 127.0.0.1:7441]
    #[arg(long, value_name = "ADDR")]
    #[serde(alias = "listen_http")]
    pub listen_http: Option<String>,

    /// RPC addresses of some nodes of the cluster (this one may be among them)
    #[arg(long, value_name = "ADDR,…", value_delimiter = ',')]
    #[serde(default)]
    pub join: Vec<String>,

    /// The SQL address to tell others, if it isn't the one listened on
    #[arg(long, value_name = "ADDR")]
    #[serde(alias = "advertise_sql")]
    pub advertise_sql: Option<String>,

    /// The RPC address to tell others, if it isn't the one listened on
    #[arg(long, value_name = "ADDR")]
    #[serde(alias = "advertise_rpc")]
    pub advertise_rpc: Option<String>,

    /// The HTTP address to tell others, if it isn't the one listened on
    #[arg(long, value_name = "ADDR")]
    #[serde(alias = "advertise_http")]
    pub advertise_http: Option<String>,

    /// Where the node stands: region=…,zone=…,rack=…, each of which may be left out. Replicas are kept apart
    #[arg(long, value_name = "TIER=NAME,…")]
    pub locality: Option<String>,

    /// At most this many SQL connections at a time [default: 1000]
    #[arg(long, value_name = "N")]
    #[serde(alias = "max_connections")]
    pub max_connections: Option<usize>,

    /// Threads that serve requests; fewer than processors where several nodes share a machine [default: processors, at least 2]
    #[arg(long, value_name = "N", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=1024))]
    pub threads: Option<usize>,

    /// Without TLS and without authentication: whoever reaches a port may read and change everything
    #[arg(long)]
    #[serde(default)]
    pub insecure: bool,

    /// TOML file with the same names as these flags, which win
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
}

/// Settings, complete.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The store's directory.
    pub store: PathBuf,
    /// Listen addresses.
    pub listen_sql: String,
    /// See `listen_sql`.
    pub listen_rpc: String,
    /// See `listen_sql`.
    pub listen_http: String,
    /// What others are told, if it is not what is listened on.
    pub advertise_sql: Option<String>,
    /// See `advertise_sql`.
    pub advertise_rpc: Option<String>,
    /// See `advertise_sql`.
    pub advertise_http: Option<String>,
    /// Whom to ask.
    pub join: Vec<String>,
    /// Where the node stands.
    pub locality: Locality,
    /// SQL connections.
    pub max_connections: usize,
    /// The scheduler's threads, if not as many as suit the machine.
    pub threads: Option<usize>,
    /// Initialise a cluster of one, if the store belongs to none.
    pub single_node: bool,
}

impl Settings {
    /// Reads the file, if one is named, lets flags win, and fills in what was not said.
    pub fn resolve(self, single_node: bool) -> Result<ServerOptions, Failure> {
        let file = match &self.config {
            Some(path) => Self::read(path)?,
            None => Settings::default(),
        };
        let insecure = self.insecure || file.insecure;
        let or = |flag: Option<String>, file: Option<String>, default: &str| {
            flag.or(file).unwrap_or_else(|| default.to_owned())
        };
        let locality = self.locality.or(file.locality).unwrap_or_default();
        let options = ServerOptions {
            store: self
                .store
                .or(file.store)
                .ok_or_else(|| Failure::Usage("--store DIR is missing".into()))?,
            listen_sql: or(self.listen_sql, file.listen_sql, DEFAULT_SQL),
            listen_rpc: or(self.listen_rpc, file.listen_rpc, DEFAULT_RPC),
            listen_http: or(self.listen_http, file.listen_http, DEFAULT_HTTP),
            advertise_sql: self.advertise_sql.or(file.advertise_sql),
            advertise_rpc: self.advertise_rpc.or(file.advertise_rpc),
            advertise_http: self.advertise_http.or(file.advertise_http),
            join: if self.join.is_empty() { file.join } else { self.join },
            locality: locality
                .parse()
                .map_err(|error: LocalityError| Failure::Usage(format!("--locality: {error}")))?,
            max_connections: self.max_connections.or(file.max_connections).unwrap_or(1_000),
            threads: self.threads.or(file.threads),
            single_node,
        };
        if !insecure {
            return Err(Failure::Usage(
                "--insecure is missing: this version has no TLS and no authentication, so whoever reaches a port may \
                 read and change everything; say --insecure if the network is trusted"
                    .into(),
            ));
        }
        if single_node && !options.join.is_empty() {
            return Err(Failure::Usage("--join makes no sense with start-single-node".into()));
        }
        Ok(options)
    }

    fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| Failure::Usage(format!("cannot read {}: {source}", path.display())))?;
        toml::from_str(&text).map_err(|error| {
            let message = error.message().replace('\n', " ");
            let line = 1 + error.span().map_or(0, |span| text[..span.start].matches('\n').count());
            Failure::Usage(format!("{}, line {line}: {message}", path.display()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("flotilla.toml");
        let text = "store = \"/from/file\"\nlisten-sql = \"file:1\"\nlisten_rpc = \"file:2\"\njoin = [\"a:1\", \"b:2\"]\ninsecure = true\n";
        std::fs::write(&path, text).expect("written");
        let flags =
            Settings { config: Some(path.clone()), listen_sql: Some("flag:1".into()), ..Default::default() };
        let options = flags.resolve(false).expect("complete");
        assert_eq!((&*options.listen_sql, &*options.listen_rpc), ("flag:1", "file:2"));
        assert_eq!(options.join, ["a:1", "b:2"]);

        std::fs::write(&path, "insecure = true\nstoer = \"typo\"\n").expect("written");
        let flags = Settings { config: Some(path), ..Default::default() };
        let error = flags.resolve(false).expect_err("an unknown name").to_string();
        assert!(error.contains("flotilla.toml, line 2: ") && error.contains("stoer"), "{error}");
    }

    #[test]
    fn insecure_is_demanded() {
        let flags = Settings { store: Some("/x".into()), ..Default::default() };
        let error = flags.resolve(false).expect_err("refused").to_string();
        assert!(error.contains("no TLS and no authentication"), "{error}");
    }
}
