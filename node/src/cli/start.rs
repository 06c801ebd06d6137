//! `flotilla start` and `flotilla start-single-node`.

use storage::seam::Seams;

use crate::config::Settings;
use crate::exit::Failure;
use crate::{runtime, server};

/// Threads of the scheduler, also where there are fewer processors: one of them may be in a slow read.
const THREADS_MIN: usize = 4;

/// Runs until SIGTERM or SIGINT.
pub fn run(settings: Settings, single_node: bool) -> Result<(), Failure> {
    let options = settings.resolve(single_node)?;
    runtime::init_log();
    runtime::abort_on_panic();
    runtime::raise_file_limit();
    let runtime = runtime::build(THREADS_MIN)?;
    let result = runtime.block_on(async {
        let seams = Seams::real();
        let stop = runtime::shutdown_on_signal(&seams)?;
        server::run(options, seams, stop).await
    });
    // What still runs has been told to stop and was waited for as long as it deserved.
    runtime.shutdown_background();
    result
}
