//! `flotilla verify`: starts clusters, breaks them, and says whether clients saw anything that is not allowed.
//!
//! The work is done by the program `jepsen`, which lies beside this one: what tests the product is no part of it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use clap::Args;

use crate::exit::Failure;

/// What is handed on.
#[derive(Args)]
#[command(disable_help_flag = true)]
pub struct VerifyArgs {
    /// Arguments of `jepsen run`; --help lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Becomes the other program: returns only if that fails.
pub fn run(args: VerifyArgs) -> Result<(), Failure> {
    let me = std::env::current_exe().map_err(Failure::other)?;
    let jepsen = me.with_file_name("jepsen");
    let mut command = Command::new(&jepsen);
    command.arg("run").args(args.arguments);
    if std::env::var_os("FLOTILLA_BIN").is_none() {
        command.env("FLOTILLA_BIN", &me);
    }
    let failure = command.exec();
    Err(Failure::Usage(format!(
        "cannot run {}: {failure}; build it with 'cargo build -p jepsen'",
        jepsen.display()
    )))
}
