//! Listening TCP sockets, asked of the kernel by sock_diag(7). The tables in /proc tell the same, but for each read of
//! them the kernel walks all its buckets for connections: milliseconds on a host with much memory.
//!
//! What is not answered whole is `None`, and then the tables are read. Must not make the kernel load a module, which
//! would be a change: it is asked only where there is nothing left to load.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;
use std::path::Path;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use super::sockets::Socket;
use crate::types::Proto;

// linux/netlink.h, linux/sock_diag.h and linux/inet_diag.h
const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const NLM_F_DUMP_INTR: u16 = 0x10;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const TCP_LISTEN: u8 = 10;
/// `struct inet_diag_sockid` and the fields after it in `struct inet_diag_msg`.
const MESSAGE: usize = 72;

/// What one datagram of the kernel said.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    More,
    Done,
}

/// All TCP sockets in state LISTEN of this thread's network namespace, both families; `None` when they cannot be told.
pub fn listening() -> Option<Vec<Socket>> {
    if !can_be_asked() {
        return None;
    }
    let mut sockets = dump(AddressFamily::Inet)?;
    sockets.extend(dump(AddressFamily::Inet6)?);
    Some(sockets)
}

/// True when the part of the kernel that answers is there: loaded, or in a kernel that knows no modules. Whether it is
/// built into a kernel that does cannot be seen.
fn can_be_asked() -> bool {
    let there = |path: &str| Path::new(path).exists();
    let loaded = there("/sys/module/tcp_diag") && there("/sys/module/inet_diag");
    loaded || there("/proc/sys/kernel/pid_max") && !there("/proc/sys/kernel/modules_disabled")
}

fn dump(family: AddressFamily) -> Option<Vec<Socket>> {
    let kernel =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag).ok()?;
    let family = u8::try_from(family as i32).ok()?;
    let request = request(family);
    if send(kernel.as_raw_fd(), &request, MsgFlags::empty()).ok()? != request.len() {
        return None;
    }
    let mut sockets = Vec::new();
    // The kernel sends at most 32 KiB at a time; a longer answer than there is room for gives its true length.
    let mut datagram = vec![0; 65536];
    loop {
        let length = recv(kernel.as_raw_fd(), &mut datagram, MsgFlags::MSG_TRUNC).ok()?;
        match read(datagram.get(..length)?, family, &mut sockets)? {
            Said::More => {}
            Said::Done => return Some(sockets),
        }
    }
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`: every socket of `family` in state LISTEN.
fn request(family: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(72_u32.to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, 6, 0, 0]);
    bytes.extend((1_u32 << TCP_LISTEN).to_ne_bytes());
    // Any address, any port.
    bytes.resize(72, 0);
    bytes
}

/// Takes the sockets out of one datagram; `None` when anything in it is not as expected, or the kernel says that the
/// answer has holes because sockets came and went meanwhile.
fn read(datagram: &[u8], family: u8, sockets: &mut Vec<Socket>) -> Option<Said> {
    let mut rest = datagram;
    while !rest.is_empty() {
        let length = usize::try_from(u32_at(rest, 0)?).ok()?;
        let (kind, flags) = (u16_at(rest, 4)?, u16_at(rest, 6)?);
        let body = rest.get(HEADER..length)?;
        if flags & NLM_F_DUMP_INTR != 0 || kind == NLMSG_ERROR {
            return None;
        }
        match kind {
            // How the dump ended: zero, or the number of an error.
            NLMSG_DONE => return (u32_at(body, 0)? == 0).then_some(Said::Done),
            SOCK_DIAG_BY_FAMILY => sockets.push(listener(body, family)?),
            _ => return None,
        }
        rest = rest.get(length.next_multiple_of(4).min(rest.len())..)?;
    }
    Some(Said::More)
}

/// `struct inet_diag_msg`.
fn listener(body: &[u8], family: u8) -> Option<Socket> {
    let message = body.get(..MESSAGE)?;
    if message.get(..2)? != [family, TCP_LISTEN] {
        return None;
    }
    let port = u16::from_be_bytes(message.get(4..6)?.try_into().ok()?);
    let address = match AddressFamily::from_i32(i32::from(family))? {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(message.get(8..12)?).ok()?)),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(message.get(8..24)?).ok()?)),
        _ => return None,
    };
    Some(Socket { address, port, proto: Proto::Tcp, inode: u64::from(u32_at(message, 68)?) })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: u8 = 2;
    const V6: u8 = 10;

    fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(HEADER + body.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(body);
        bytes
    }

    fn body(family: u8, state: u8, port: u16, address: &[u8], inode: u32) -> Vec<u8> {
        let mut bytes = vec![family, state, 0, 0];
        bytes.extend(port.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(address);
        bytes.resize(68, 0);
        bytes.extend(inode.to_ne_bytes());
        // An attribute that nobody asked for.
        bytes.extend([5, 0, 8, 0, 1, 0, 0, 0]);
        bytes
    }

    fn heard(datagram: &[u8], family: u8) -> Option<(Said, Vec<String>)> {
        let mut sockets = Vec::new();
        let said = read(datagram, family, &mut sockets)?;
        Some((said, sockets.iter().map(|one| format!("{} {} {}", one.address, one.port, one.inode)).collect()))
    }

    #[test]
    fn what_the_kernel_sends() {
        let mut datagram = message(SOCK_DIAG_BY_FAMILY, 2, &body(V4, TCP_LISTEN, 22, &[127, 0, 0, 1], 4242));
        datagram.extend(message(SOCK_DIAG_BY_FAMILY, 2, &body(V4, TCP_LISTEN, 8080, &[0, 0, 0, 0], 7)));
        let two = vec!["127.0.0.1 22 4242".to_owned(), "0.0.0.0 8080 7".to_owned()];
        assert_eq!(heard(&datagram, V4), Some((Said::More, two.clone())));
        datagram.extend(message(NLMSG_DONE, 2, &[0; 4]));
        assert_eq!(heard(&datagram, V4), Some((Said::Done, two)));
        let mut address = [0; 16];
        address[15] = 1;
        let six = message(SOCK_DIAG_BY_FAMILY, 2, &body(V6, TCP_LISTEN, 2222, &address, 9));
        assert_eq!(heard(&six, V6), Some((Said::More, vec!["::1 2222 9".to_owned()])));
    }

    #[test]
    fn half_an_answer_is_none() {
        let good = message(SOCK_DIAG_BY_FAMILY, 2, &body(V4, TCP_LISTEN, 22, &[127, 0, 0, 1], 4242));
        for cut in [1, 15, 40, good.len() - 1] {
            assert_eq!(heard(&good[..cut], V4), None, "{cut}");
        }
        let odd = [
            message(SOCK_DIAG_BY_FAMILY, 2 | NLM_F_DUMP_INTR, &body(V4, TCP_LISTEN, 22, &[0; 4], 1)),
            message(SOCK_DIAG_BY_FAMILY, 2, &body(V4, 1, 22, &[0; 4], 1)),
            message(SOCK_DIAG_BY_FAMILY, 2, &body(V6, TCP_LISTEN, 22, &[0; 4], 1)),
            message(NLMSG_ERROR, 0, &(-2_i32).to_ne_bytes()),
            message(NLMSG_DONE, 2, &(-12_i32).to_ne_bytes()),
            message(NLMSG_DONE, 2 | NLM_F_DUMP_INTR, &[0; 4]),
            message(99, 2, &[0; 4]),
            vec![0; 16],
        ];
        for datagram in odd {
            assert_eq!(heard(&datagram, V4), None, "{datagram:?}");
        }
    }

    #[test]
    fn both_ways_tell_the_same() {
        let open: Vec<std::net::TcpListener> =
            ["127.0.0.1:0", "[::1]:0", "[::]:0"].iter().filter_map(|at| std::net::TcpListener::bind(at).ok()).collect();
        // Where it cannot be asked, the tables are what is read.
        let Some(asked) = listening() else { return };
        let read = super::super::sockets::tables(&[Proto::Tcp]).unwrap();
        for one in &open {
            let here = one.local_addr().unwrap();
            let find = |all: &[Socket]| {
                all.iter().find(|socket| (socket.address, socket.port) == (here.ip(), here.port())).map(|s| s.inode)
            };
            assert!(find(&asked).is_some(), "{here}");
            assert_eq!(find(&asked), find(&read), "{here}");
        }
    }
}
