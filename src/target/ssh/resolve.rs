//! From a name to a TCP connection. The static binary must not touch NSS, so names are asked of `getent`, a child that is
//! linked with the machine's own libc and reads hosts, DNS and whatever else is set up there.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};

use super::trouble::{Outcome, Setback, Trouble};
use crate::host::{Command, Probe};
use crate::proof::wire::plain;

/// A resolver with two dead servers gives up after 20 seconds; that long nobody waits.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// The next address is tried after this time, so that a broken IPv6 costs no more.
const NEXT_AFTER: Duration = Duration::from_secs(3);
/// Most addresses of one name that are tried.
const MOST: usize = 8;

/// The addresses of `host`, a name that has passed the rules or an address.
///
/// # Errors
/// [`Trouble::Resolve`] when there are none.
pub(super) fn addresses(host: &str, port: u16, probe: &dyn Probe) -> Outcome<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    if let Some((address, zone)) = host.split_once('%') {
        return zoned(address, zone, port).map(|address| vec![address]).ok_or_else(|| {
            Setback::new(Trouble::Resolve, host, format!("there is no network interface {zone} here"))
                .hint("ip -o link")
        });
    }
    let none = |why: String| {
        Setback::new(Trouble::Resolve, host, "the name has no address").why(why).hint(format!("getent ahosts {host}"))
    };
    let ask = Command::new(["/usr/bin/getent", "ahosts", "--", host].map(str::to_owned)).deadline(ASK_LIMIT);
    let output = probe.ask(&ask).map_err(|failure| none(failure.line()))?;
    let mut found: Vec<IpAddr> = Vec::new();
    for line in output.stdout.lines() {
        let address = line.split_whitespace().next().and_then(|word| word.parse().ok());
        found.extend(address.filter(|address| !found.contains(address)));
    }
    found.truncate(MOST);
    match (found.is_empty(), output.code) {
        (false, _) => Ok(found.into_iter().map(|address| SocketAddr::new(address, port)).collect()),
        (true, 0 | 2) => Err(none(String::new())),
        (true, _) => Err(none(plain(&output.last_line()))),
    }
}

/// A link-local address with its interface, by name or number.
fn zoned(address: &str, zone: &str, port: u16) -> Option<SocketAddr> {
    let address: Ipv6Addr = address.parse().ok()?;
    let index = zone.parse().ok().or_else(|| nix::net::if_::if_nametoindex(zone).ok())?;
    Some(SocketAddrV6::new(address, port, 0, index).into())
}

/// Connects to the first of `addresses` that answers.
///
/// # Errors
/// What most tells about the host: a refusal proves that it is there, silence points at a firewall.
pub(super) async fn connect(
    place: &str,
    addresses: &[SocketAddr],
    limit: Duration,
) -> Outcome<(TcpStream, SocketAddr)> {
    let mut met: Vec<(Trouble, String)> = Vec::new();
    for (index, address) in addresses.iter().enumerate() {
        let last = index + 1 == addresses.len();
        let address = *address;
        match one(address, if last { limit } else { limit.min(NEXT_AFTER) }).await {
            Ok(stream) => return Ok((stream, address)),
            Err((trouble, why)) => met.push((trouble, format!("{address}: {why}"))),
        }
    }
    let rank = |trouble: &Trouble| match trouble {
        Trouble::Refused => 0,
        Trouble::Filtered => 1,
        _ => 2,
    };
    let why = met.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("; ");
    let worst = met.iter().map(|(trouble, _)| trouble).min_by_key(|trouble| rank(trouble)).cloned();
    let (what, hint) = match worst {
        Some(Trouble::Refused) => (
            "the connection is refused: nothing listens on that port, or a firewall rejects it",
            "is it the right port, or did a run move it (--host USER@HOST:PORT)? On the host: ss -tln",
        ),
        Some(Trouble::Filtered) => (
            "there is no answer: the host is down, or a firewall or the provider's security group drops the connection",
            "did a run move the port (--host USER@HOST:PORT)? Else look at the provider's firewall and at the host's console",
        ),
        _ => ("the host cannot be reached", "ip route get ADDRESS"),
    };
    Err(Setback::new(worst.unwrap_or(Trouble::Unreachable), place, what).why(why).hint(hint))
}

async fn one(address: SocketAddr, limit: Duration) -> Result<TcpStream, (Trouble, String)> {
    let attempt = async {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        let stream = socket.connect(address).await?;
        // Without it each small packet of the dialogue waits for the other side's delayed acknowledgement.
        stream.set_nodelay(true)?;
        Ok::<_, std::io::Error>(stream)
    };
    match tokio::time::timeout(limit, attempt).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err((trouble(&error), error.to_string())),
        Err(_) => Err((Trouble::Filtered, format!("no answer in {} s", limit.as_secs_f32()))),
    }
}

fn trouble(error: &std::io::Error) -> Trouble {
    use std::io::ErrorKind as Io;
    match error.kind() {
        Io::ConnectionRefused | Io::ConnectionReset => Trouble::Refused,
        Io::TimedOut => Trouble::Filtered,
        _ => Trouble::Unreachable,
    }
}
