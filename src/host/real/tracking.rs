//! Connections that the kernel's connection tracking has never seen begin, told to it over netlink(7)
//! (linux/netfilter/nfnetlink_conntrack.h), as `conntrack --create` of conntrack-tools(8) does.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket};
use nix::sys::time::TimeVal;

use super::sockets::{Connection, connections};
use crate::error::{Failure, Result};
use crate::types::Port;

// linux/netlink.h, linux/netfilter/nfnetlink.h
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST_ACK_EXCL_CREATE: u16 = 0x605;
/// Subsystem NFNL_SUBSYS_CTNETLINK, message IPCTNL_MSG_CT_NEW.
const CT_NEW: u16 = 1 << 8;
const NESTED: u16 = 0x8000;

// enum ctattr_type and those below it
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const PROTOINFO: u16 = 4;
const TIMEOUT: u16 = 7;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const PROTO_NUM: u16 = 1;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;
const PROTOINFO_TCP: u16 = 1;
const TCP_STATE: u16 = 1;
const TCP_FLAGS_ORIGINAL: u16 = 4;
const TCP_FLAGS_REPLY: u16 = 5;

/// IPS_SEEN_REPLY, IPS_ASSURED and IPS_CONFIRMED: both sides have spoken, it is not the first to go when the table is full,
/// and it is in the table, which the kernel wants to hear.
const ANSWERED: u32 = 2 | 4 | 8;
/// TCP_CONNTRACK_ESTABLISHED.
const ESTABLISHED: u8 = 3;
/// IP_CT_TCP_FLAG_BE_LIBERAL, value and mask: nobody has told the kernel the sequence numbers.
const LIBERAL: [u8; 2] = [8, 8];

/// nf_conntrack_tcp_timeout_established where it cannot be read, in seconds.
const FIVE_DAYS: u32 = 432_000;
const TIMEOUT_FILE: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established";

/// Makes the established TCP connections to these local ports known, both families. Those that are known stay as they
/// are. Where the kernel tracks nothing there is nothing to do.
///
/// # Errors
/// When the connections cannot be read, or the kernel takes one not.
pub fn make_known(ports: &[Port]) -> Result<()> {
    let timeout = match std::fs::read_to_string(TIMEOUT_FILE) {
        Ok(text) => text.trim().parse().unwrap_or(FIVE_DAYS),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(_) => FIVE_DAYS,
    };
    let ours = |connection: &Connection| ports.iter().any(|port| port.get() == connection.local.port());
    let mut left = None;
    for connection in connections()?.into_iter().filter(ours) {
        if let Err(errno) = tell(&connection, timeout) {
            let place = format!("the session from {}", connection.remote);
            left.get_or_insert(Failure::failed(place, "cannot be made known to the firewall").why(errno.desc()));
            if errno == Errno::EAGAIN {
                // Who does not answer once will not answer for the others, and a port waits to be shut.
                break;
            }
        }
    }
    left.map_or(Ok(()), Err)
}

fn tell(connection: &Connection, timeout: u32) -> nix::Result<()> {
    let kernel = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)?;
    setsockopt(&kernel, ReceiveTimeout, &TimeVal::new(2, 0))?;
    send(kernel.as_raw_fd(), &message(connection, timeout), MsgFlags::empty())?;
    let mut answer = [0; 4096];
    let length = recv(kernel.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    match refusal(answer.get(..length).unwrap_or_default()) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// `struct nlmsgerr` of an answer; its number 0 is an acknowledgement.
fn refusal(answer: &[u8]) -> nix::Result<()> {
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let number = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, number) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(number)) => Err(Errno::from_raw(number.saturating_neg())),
        _ => Err(Errno::EBADMSG),
    }
}

/// `struct nlmsghdr`, `struct nfgenmsg` and the attributes of one connection, as its other side began it.
fn message(connection: &Connection, timeout: u32) -> Vec<u8> {
    let Connection { local, remote } = connection;
    let family = if local.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let mut body = vec![u8::try_from(family as i32).unwrap_or_default(), 0, 0, 0];
    body.extend(attribute(NESTED | TUPLE_ORIG, &tuple(remote, local)));
    body.extend(attribute(NESTED | TUPLE_REPLY, &tuple(local, remote)));
    body.extend(attribute(STATUS, &ANSWERED.to_be_bytes()));
    body.extend(attribute(TIMEOUT, &timeout.to_be_bytes()));
    let mut tcp = attribute(TCP_STATE, &[ESTABLISHED]);
    tcp.extend(attribute(TCP_FLAGS_ORIGINAL, &LIBERAL));
    tcp.extend(attribute(TCP_FLAGS_REPLY, &LIBERAL));
    body.extend(attribute(NESTED | PROTOINFO, &attribute(NESTED | PROTOINFO_TCP, &tcp)));

    let mut bytes = u32::try_from(16 + body.len()).unwrap_or_default().to_ne_bytes().to_vec();
    bytes.extend(CT_NEW.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST_ACK_EXCL_CREATE.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

fn tuple(from: &SocketAddr, to: &SocketAddr) -> Vec<u8> {
    let mut addresses = Vec::new();
    for (at, end) in [(0, from), (1, to)] {
        // CTA_IP_V4_SRC and _DST are 1 and 2, CTA_IP_V6_SRC and _DST 3 and 4.
        addresses.extend(match end.ip() {
            IpAddr::V4(address) => attribute(1 + at, &address.octets()),
            IpAddr::V6(address) => attribute(3 + at, &address.octets()),
        });
    }
    let mut protocol = attribute(PROTO_NUM, &[6]);
    protocol.extend(attribute(PROTO_SRC_PORT, &from.port().to_be_bytes()));
    protocol.extend(attribute(PROTO_DST_PORT, &to.port().to_be_bytes()));
    let mut bytes = attribute(NESTED | TUPLE_IP, &addresses);
    bytes.extend(attribute(NESTED | TUPLE_PROTO, &protocol));
    bytes
}

/// `struct nlattr` with its value, padded to a multiple of four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = u16::try_from(4 + value.len()).unwrap_or_default().to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_long_as_they_say() {
        for (local, remote) in [("192.0.2.1:22", "198.51.100.7:40000"), ("[2001:db8::1]:22", "[2001:db8::7]:40000")] {
            let connection = Connection { local: local.parse().unwrap(), remote: remote.parse().unwrap() };
            let bytes = message(&connection, 7);
            assert_eq!(u32::from_ne_bytes(bytes[..4].try_into().unwrap()), u32::try_from(bytes.len()).unwrap());
            // Every attribute of the highest level fits exactly.
            let (mut at, mut kinds) = (20, Vec::new());
            while at < bytes.len() {
                let length = u16::from_ne_bytes(bytes[at..at + 2].try_into().unwrap());
                kinds.push(u16::from_ne_bytes(bytes[at + 2..at + 4].try_into().unwrap()) & !NESTED);
                at += usize::from(length).next_multiple_of(4);
            }
            assert_eq!((at, kinds), (bytes.len(), vec![TUPLE_ORIG, TUPLE_REPLY, STATUS, TIMEOUT, PROTOINFO]));
        }
    }

    #[test]
    fn answers_of_the_kernel() {
        let answer = |kind: u16, number: i32| {
            let mut bytes = 36_u32.to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend([0; 10]);
            bytes.extend(number.to_ne_bytes());
            bytes
        };
        assert_eq!(refusal(&answer(NLMSG_ERROR, 0)), Ok(()));
        assert_eq!(refusal(&answer(NLMSG_ERROR, -1)), Err(Errno::EPERM));
        assert_eq!(refusal(&answer(NLMSG_ERROR, i32::MIN)), Err(Errno::from_raw(i32::MAX)));
        assert_eq!(refusal(&answer(3, 0)), Err(Errno::EBADMSG));
        assert_eq!(refusal(&[0; 7]), Err(Errno::EBADMSG));
    }
}
