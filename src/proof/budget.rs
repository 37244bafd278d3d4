//! A TCP stream that stops a server from sending without end: after its budget, reading is an error. It acknowledges at
//! once: sshd sends its part of a login in small pieces and waits for each (Nagle), which costs 40 ms a piece otherwise.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// `inner` with at most `left` bytes to be read.
pub(super) struct Budget {
    inner: TcpStream,
    left: usize,
}

impl Budget {
    /// Lets at most `bytes` be read from `inner`.
    pub(super) fn new(inner: TcpStream, bytes: usize) -> Self {
        // Without it a login is slower and nothing else.
        let _ = inner.set_quickack(true);
        Self { inner, left: bytes }
    }
}

impl AsyncRead for Budget {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.left == 0 {
            return Poll::Ready(Err(io::Error::other("the server sent more than a login needs")));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        let read = buf.filled().len().saturating_sub(before);
        self.left = self.left.saturating_sub(read);
        if read > 0 {
            // The kernel forgets it (tcp(7)).
            let _ = self.inner.set_quickack(true);
        }
        polled
    }
}

impl AsyncWrite for Budget {
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
