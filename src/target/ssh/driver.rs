//! The thread that keeps connections alive while their blocking owner does something else: it answers keepalives and
//! window messages. Ends with the last connection.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use russh::client::Handle as Client;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

use super::gate::Gate;
use super::proxy::Running;
use super::stream::Meter;

/// The chain of connections to one host, kept running.
pub(super) struct Driver {
    runtime: Handle,
    /// The way to the host: jump hosts first, the host last.
    chain: Vec<Arc<Client<Gate>>>,
    pub(super) meter: Arc<Meter>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _proxy: Option<Running>,
}

/// A runtime of one thread.
///
/// # Errors
/// When the kernel gives no epoll or timer descriptors.
pub(super) fn runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

impl Driver {
    /// Takes over what was opened in `runtime`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn start(
        runtime: Runtime,
        chain: Vec<Arc<Client<Gate>>>,
        meter: Arc<Meter>,
        proxy: Option<Running>,
    ) -> std::io::Result<Self> {
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let run = move || {
            let _ = runtime.block_on(stopped);
        };
        let thread = std::thread::Builder::new().name("keyward-ssh".to_owned()).spawn(run)?;
        Ok(Self { runtime: handle, chain, meter, stop: Some(stop), thread: Some(thread), _proxy: proxy })
    }

    /// The connection to the host itself.
    pub(super) fn client(&self) -> Option<Arc<Client<Gate>>> {
        self.chain.last().cloned()
    }

    /// Runs `future` there and waits for its result; `None` when `limit` is over or the thread is gone. The future is
    /// dropped at the limit.
    pub(super) fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (send, receive) = mpsc::channel();
        self.runtime.spawn(async move {
            if let Ok(done) = tokio::time::timeout(limit, future).await {
                let _ = send.send(done);
            }
        });
        receive.recv_timeout(limit.saturating_add(Duration::from_secs(1))).ok()
    }

    /// Runs `future` there without waiting.
    pub(super) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(future);
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Says goodbye, so that sshd does not log a broken connection.
        if let Some(client) = self.client() {
            let goodbye = async move { client.disconnect(russh::Disconnect::ByApplication, "", "").await.is_ok() };
            let _ = self.run(Duration::from_millis(200), async move {
                let _ = goodbye.await;
                // The message is sent by another task of this thread.
                tokio::time::sleep(Duration::from_millis(2)).await;
            });
        }
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("hops", &self.chain.len()).finish_non_exhaustive()
    }
}
