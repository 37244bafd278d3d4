//! The byte stream below a connection: counted, so that a server cannot send without end, and with its first words kept,
//! since sshd says in them why it hangs up. Understands nothing else of SSH.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Any stream that can carry a connection.
pub(super) trait Carrier: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Carrier for S {}

/// A stream whose kind does not matter any more.
pub(super) type Pipe = Box<dyn Carrier>;

/// Most of the server's first words that are kept.
const HEAD_LIMIT: usize = 1024;

/// What was seen of a stream, shared with whoever judges the connection.
#[derive(Debug, Default)]
pub(super) struct Meter {
    left: AtomicUsize,
    head: Mutex<Vec<u8>>,
}

impl Meter {
    /// Allows `bytes` to be read.
    pub(super) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(bytes), head: Mutex::default() })
    }

    /// Allows more to be read.
    pub(super) fn allow(&self, bytes: usize) {
        let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_add(bytes)));
    }

    /// True when the server sent more than was allowed.
    pub(super) fn is_spent(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }

    /// The first words of the server, as text.
    pub(super) fn head(&self) -> String {
        self.head.lock().map_or_else(|_| String::new(), |head| String::from_utf8_lossy(&head).into_owned())
    }

    fn note(&self, bytes: &[u8]) {
        let _ =
            self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(bytes.len())));
        if let Ok(mut head) = self.head.lock() {
            let room = HEAD_LIMIT.saturating_sub(head.len());
            head.extend(bytes.iter().take(room));
        }
    }
}

/// A stream with a meter.
pub(super) struct Metered {
    inner: Pipe,
    meter: Arc<Meter>,
}

impl Metered {
    /// Counts what is read from `inner`.
    pub(super) fn new(inner: Pipe, meter: Arc<Meter>) -> Self {
        Self { inner, meter }
    }
}

impl AsyncRead for Metered {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.meter.is_spent() {
            return Poll::Ready(Err(io::Error::other("the server sent more than it was asked for")));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.meter.note(buf.filled().get(before..).unwrap_or_default());
        polled
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
