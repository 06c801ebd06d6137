//! `flotilla start` and `flotilla start-single-node`.

use storage::seam::Seams;

use crate::config::Settings;
use crate::exit::Failure;
use crate::{runtime, server};

/// Threads of the scheduler unless told otherwise, also where there are fewer processors: one of them may be in a slow read.
const THREADS_MIN: usize = 2;

/// Runs until SIGTERM or SIGINT.
pub fn run(settings: Settings, single_node: bool) -> Result<(), Failure> {
    let options = settings.resolve(single_node)?;
    runtime::init_log();
    runtime::abort_on_panic();
    runtime::raise_file_limit();
    let processors = std::thread::available_parallelism().map_or(THREADS_MIN, |n| n.get().max(THREADS_MIN));
    let runtime = runtime::build(options.threads.unwrap_or(processors).max(1))?;
    let result = runtime.block_on(async {
        let seams = Seams::real();
        let stop = runtime::shutdown_on_signal(&seams)?;
        server::run(options, seams, stop).await
    });
    // What still runs has been told to stop and was waited for as long as it deserved.
    runtime.shutdown_background();
    result
}
