//! Sockets that take what strangers send, from the kernel or its tables in /proc/net (proc_net(5)), and who holds them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::diag;
use crate::error::{Failure, Result};
use crate::host::Listener;
use crate::types::Proto;

/// State TCP_ESTABLISHED in hexadecimal.
const ESTABLISHED: &str = "01";
/// State TCP_LISTEN in hexadecimal.
const LISTEN: &str = "0A";
/// State TCP_CLOSE, which for UDP means that nobody is at the other end.
const UNCONNECTED: &str = "07";
/// The tables, with the state that counts; a kernel without IPv6 has no second one of each.
const TABLES: [(&str, Proto, bool); 4] = [
    ("/proc/thread-self/net/tcp", Proto::Tcp, true),
    ("/proc/thread-self/net/tcp6", Proto::Tcp, false),
    ("/proc/thread-self/net/udp", Proto::Udp, true),
    ("/proc/thread-self/net/udp6", Proto::Udp, false),
];

/// All TCP sockets in state LISTEN and all UDP sockets without a peer of this thread's network namespace.
///
/// # Errors
/// When the kernel does not show them.
pub fn listeners() -> Result<Vec<Listener>> {
    let sockets = match diag::listening() {
        Some(mut sockets) => {
            sockets.extend(tables(&[Proto::Udp])?);
            sockets
        }
        None => tables(&[Proto::Tcp, Proto::Udp])?,
    };
    let holders = holders(&sockets.iter().map(|socket| socket.inode).collect());
    let mut listeners: Vec<Listener> = sockets
        .into_iter()
        .map(|Socket { address, port, proto, inode }| {
            let programs = holders.get(&inode).map(|names| names.iter().cloned().collect()).unwrap_or_default();
            Listener { address, port, proto, programs }
        })
        .collect();
    listeners.sort();
    Ok(listeners)
}

/// The sockets of these protocols as the tables show them.
///
/// # Errors
/// When /proc does not show them.
pub fn tables(wanted: &[Proto]) -> Result<Vec<Socket>> {
    lines(wanted, parse)
}

/// A TCP connection that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// This end.
    pub local: SocketAddr,
    /// The other one.
    pub remote: SocketAddr,
}

/// All TCP connections in state ESTABLISHED of this thread's network namespace. One of IPv4 through a socket of IPv6 is
/// given as what it is on the wire.
///
/// # Errors
/// When the kernel does not show them.
pub fn connections() -> Result<Vec<Connection>> {
    lines(&[Proto::Tcp], |line, _| parse_connection(line))
}

fn lines<T>(wanted: &[Proto], parse: impl Fn(&str, Proto) -> Option<T>) -> Result<Vec<T>> {
    let mut sockets = Vec::new();
    for (file, proto, must) in TABLES.into_iter().filter(|(_, proto, _)| wanted.contains(proto)) {
        match whole(file) {
            Ok(text) => sockets.extend(text.lines().skip(1).filter_map(|line| parse(line, proto))),
            Err(error) if !must && error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(Failure::unknown(file, "the kernel's sockets cannot be read")
                    .why(error)
                    .hint("mount -t proc proc /proc"));
            }
        }
    }
    Ok(sockets)
}

/// A table in as few reads as it gives: with each one the kernel looks through all its buckets again.
fn whole(file: &str) -> std::io::Result<String> {
    let mut bytes = Vec::with_capacity(1 << 16);
    std::fs::File::open(file)?.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A socket, and the number under which its holders are found.
#[derive(Debug)]
pub struct Socket {
    /// Local address.
    pub address: IpAddr,
    /// Local port.
    pub port: u16,
    /// Its protocol.
    pub proto: Proto,
    /// Its inode.
    pub inode: u64,
}

/// A line `sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode ...`.
fn parse(line: &str, proto: Proto) -> Option<Socket> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let state = if proto == Proto::Tcp { LISTEN } else { UNCONNECTED };
    let peerless = fields.get(2)?.chars().all(|c| matches!(c, '0' | ':'));
    if fields.get(3) != Some(&state) || !peerless {
        return None;
    }
    let end = parse_end(fields.get(1)?)?;
    Some(Socket { address: end.ip(), port: end.port(), proto, inode: fields.get(9)?.parse().ok()? })
}

fn parse_connection(line: &str) -> Option<Connection> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    if fields.get(3) != Some(&ESTABLISHED) {
        return None;
    }
    let end = |at: usize| {
        let end = parse_end(fields.get(at)?)?;
        Some(SocketAddr::new(end.ip().to_canonical(), end.port()))
    };
    Some(Connection { local: end(1)?, remote: end(2)? })
}

/// `ADDRESS:PORT`, both in hexadecimal.
fn parse_end(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    Some(SocketAddr::new(parse_address(address)?, u16::from_str_radix(port, 16).ok()?))
}

/// An address as the kernel prints it: words of 32 bits in its own byte order.
fn parse_address(hex: &str) -> Option<IpAddr> {
    let mut bytes = Vec::new();
    for at in (0..hex.len()).step_by(8) {
        let word = u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?;
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    match bytes.len() {
        4 => Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?))),
        16 => Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?))),
        _ => None,
    }
}

/// Names of the processes that hold these sockets. What vanishes or cannot be seen is left out.
fn holders(inodes: &BTreeSet<u64>) -> BTreeMap<u64, BTreeSet<String>> {
    let mut holders: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    if inodes.is_empty() {
        return holders;
    }
    let Ok(processes) = std::fs::read_dir("/proc") else { return holders };
    for process in processes.flatten() {
        if !process.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            let Ok(target) = std::fs::read_link(descriptor.path()) else { continue };
            let inode = target
                .to_str()
                .and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok())
                .filter(|inode| inodes.contains(inode));
            if let Some(inode) = inode
                && let Ok(name) = std::fs::read_to_string(process.path().join("comm"))
            {
                holders.entry(inode).or_default().insert(name.trim_end().to_owned());
            }
        }
    }
    holders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel() {
        let line =
            "   0: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0 100 0";
        let socket = parse(line, Proto::Tcp).unwrap();
        assert_eq!((socket.address.to_string().as_str(), socket.port, socket.inode), ("127.0.0.1", 22, 4242));
        let six =
            "   1: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 7 1";
        let socket = parse(six, Proto::Tcp).unwrap();
        assert_eq!((socket.address.to_string().as_str(), socket.port), ("::1", 8080));
        assert!(parse(&line.replace(" 0A ", " 01 "), Proto::Tcp).is_none());
        assert!(parse("", Proto::Tcp).is_none());
        assert!(parse(line, Proto::Udp).is_none());
        let datagram = "  73: 00000000:CA6C 00000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 99 2 0 0";
        assert_eq!(parse(datagram, Proto::Udp).map(|socket| (socket.port, socket.inode)), Some((51820, 99)));
        assert!(parse(&datagram.replace(" 00000000:0000 ", " 0100007F:0035 "), Proto::Udp).is_none());
        assert!(parse(datagram, Proto::Tcp).is_none());
        let line =
            "   0: 010200C0:0016 076433C6:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4242 1 0 100 0";
        let found =
            Connection { local: "192.0.2.1:22".parse().unwrap(), remote: "198.51.100.7:40000".parse().unwrap() };
        assert_eq!(parse_connection(line), Some(found.clone()));
        let mapped = line.replace("010200C0:", "0000000000000000FFFF0000010200C0:");
        assert_eq!(parse_connection(&mapped.replace("076433C6:", "0000000000000000FFFF0000076433C6:")), Some(found));
        assert_eq!(parse_connection(&line.replace(" 01 ", " 0A ")), None);
    }
}
