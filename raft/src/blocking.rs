//! Work that blocks on the disk, kept off the scheduler's threads.

use storage::seam::Seams;

/// Runs `work` on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(
    seams: &Seams,
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<T> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let body = Box::new(move || {
        let _ = sender.send(work());
    });
    seams.tasks.thread(name, body)?;
    receiver.await.map_err(|_| std::io::Error::other(format!("the thread `{name}` has panicked")))
}
