//! A PostgreSQL server to compare answers with.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::ports::Ports;
use crate::text;

/// A PostgreSQL of its own, stopped and deleted when dropped.
pub struct Postgres {
    dir: tempfile::TempDir,
    bin: PathBuf,
    ports: Ports,
}

impl Postgres {
    /// Starts a server, sorting strings by their bytes as Flotilla does.
    pub fn start() -> Result<Self> {
        let bin = newest_installation()?;
        let dir = tempfile::tempdir()?;
        let ports = Ports::take()?;
        let port = ports.base;
        let server = Self { dir, bin, ports };
        let data = server.dir.path().join("data");
        // The server refuses to run as root: it gets a folder of its own.
        if is_root()? {
            let owned = Command::new("chown").args(["-R", "postgres"]).arg(server.dir.path()).output()?;
            ensure!(owned.status.success(), "chown: {}", text(&owned));
        }
        server.run(
            "initdb",
            &["-D", path(&data)?, "-U", "root", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N"],
        )?;
        let options = format!(
            "-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off -c timezone=UTC"
        );
        let log = server.dir.path().join("log");
        server.run("pg_ctl", &["-D", path(&data)?, "-l", path(&log)?, "-o", &options, "-w", "start"])?;
        Ok(server)
    }

    /// Where to connect.
    pub fn url(&self) -> String {
        format!("postgresql://root@127.0.0.1:{}/postgres?sslmode=disable", self.ports.base)
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<()> {
        let program = self.bin.join(program);
        let mut command = if is_root()? {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(&program);
            command
        } else {
            Command::new(&program)
        };
        // The server inherits its starter's outputs; they must not be a pipe that is waited for.
        let status = command
            .args(args)
            .current_dir(self.dir.path())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .with_context(|| format!("{}", program.display()))?;
        ensure!(status.success(), "{} {args:?}: {status}", program.display());
        Ok(())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let data = self.dir.path().join("data");
        if let Ok(data) = path(&data)
            && let Err(error) = self.run("pg_ctl", &["-D", data, "-m", "immediate", "stop"])
        {
            eprintln!("PostgreSQL could not be stopped: {error:#}");
        }
    }
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("the path is not UTF-8")
}

fn is_root() -> Result<bool> {
    let id = Command::new("id").arg("-u").output()?;
    Ok(String::from_utf8_lossy(&id.stdout).trim() == "0")
}

fn newest_installation() -> Result<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .context("PostgreSQL is not installed; cluster-scripts/test installs it")?
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|bin| bin.join("initdb").exists())
        .collect();
    found.sort();
    found.pop().context("PostgreSQL's server is not installed; cluster-scripts/test installs it")
}
