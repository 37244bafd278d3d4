//! The few rtnetlink(7) requests that the sandbox needs: a veth pair across two namespaces, addresses, links up, routes.
//! Knows nothing of the sandbox; works in the network namespace of the calling process; starts no program.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType};

use crate::error::{Failure, Result};

// linux/netlink.h and linux/rtnetlink.h
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_CREATE_EXCL: u16 = 0x600;
const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_PID: u16 = 19;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_NODAD: u8 = 0x02;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
const RT_SCOPE_HOST: u8 = 254;
const IFF_UP: u32 = 1;

/// A socket to the kernel's routing tables of this network namespace.
pub struct Routing {
    socket: OwnedFd,
    sequence: u32,
}

/// One request being built: the body after the netlink header.
struct Message(Vec<u8>);

impl Message {
    /// `struct ifinfomsg`: the link with this index (0: by name), flags set to `flags`.
    fn link(index: u32, flags: u32) -> Self {
        let mut body = vec![0, 0, 0, 0];
        body.extend(index.to_ne_bytes());
        body.extend(flags.to_ne_bytes());
        body.extend(flags.to_ne_bytes());
        Self(body)
    }

    /// Appends an attribute (`struct rtattr`), padded to four bytes.
    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Appends a name with its closing zero.
    fn name(self, kind: u16, name: &str) -> Self {
        let mut value = name.as_bytes().to_vec();
        value.push(0);
        self.attribute(kind, &value)
    }
}

impl Routing {
    /// Opens the socket.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub fn open() -> Result<Self> {
        let socket =
            socket::socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)
                .map_err(|errno| failure("no netlink socket", errno))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Makes a veth(4) pair: `name` here, `peer` in the network namespace of process `pid`.
    ///
    /// # Errors
    /// When the kernel refuses, as without the veth module or CAP_NET_ADMIN.
    pub fn veth(&mut self, name: &str, peer: &str, pid: u32) -> Result<()> {
        let far = Message::link(0, 0).name(IFLA_IFNAME, peer).attribute(IFLA_NET_NS_PID, &pid.to_ne_bytes());
        let data = Message(Vec::new()).attribute(VETH_INFO_PEER, &far.0);
        let info = Message(Vec::new()).attribute(IFLA_INFO_KIND, b"veth").attribute(IFLA_INFO_DATA, &data.0);
        let message = Message::link(0, 0).name(IFLA_IFNAME, name).attribute(IFLA_LINKINFO, &info.0);
        self.ask(RTM_NEWLINK, NLM_F_CREATE_EXCL, &message)
            .map_err(|errno| failure(&format!("no veth pair {name} and {peer}"), errno))
    }

    /// Removes a link; the other end of a veth pair goes with it. No such link is success.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove(&mut self, name: &str) -> Result<()> {
        match self.ask(RTM_DELLINK, 0, &Message::link(0, 0).name(IFLA_IFNAME, name)) {
            Ok(()) | Err(Errno::ENODEV) => Ok(()),
            Err(errno) => Err(failure(&format!("link {name} stays"), errno)),
        }
    }

    /// Sets a link up.
    ///
    /// # Errors
    /// When there is no such link or the kernel refuses.
    pub fn up(&mut self, name: &str) -> Result<()> {
        self.ask(RTM_NEWLINK, 0, &Message::link(0, IFF_UP).name(IFLA_IFNAME, name))
            .map_err(|errno| failure(&format!("link {name} stays down"), errno))
    }

    /// Gives a link an address. IPv6 addresses are usable at once: duplicate address detection (RFC 4862, 5.4) is off.
    ///
    /// # Errors
    /// When the kernel refuses, as for IPv6 on a machine without it.
    pub fn address(&mut self, link: &str, address: IpAddr, prefix: u8) -> Result<()> {
        let (family, bytes, flags) = match address {
            IpAddr::V4(v4) => (libc_family(AddressFamily::Inet), v4.octets().to_vec(), 0),
            IpAddr::V6(v6) => (libc_family(AddressFamily::Inet6), v6.octets().to_vec(), IFA_F_NODAD),
        };
        let mut body = vec![family, prefix, flags, 0];
        body.extend(index(link)?.to_ne_bytes());
        let message = Message(body).attribute(IFA_LOCAL, &bytes).attribute(IFA_ADDRESS, &bytes);
        self.ask(RTM_NEWADDR, NLM_F_CREATE_EXCL, &message)
            .map_err(|errno| failure(&format!("no address {address} on {link}"), errno))
    }

    /// Sets the default route of `gateway`'s family.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn default_route(&mut self, link: &str, gateway: IpAddr) -> Result<()> {
        let (family, bytes) = match gateway {
            IpAddr::V4(v4) => (libc_family(AddressFamily::Inet), v4.octets().to_vec()),
            IpAddr::V6(v6) => (libc_family(AddressFamily::Inet6), v6.octets().to_vec()),
        };
        let message = Message(vec![family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, 0, RTN_UNICAST, 0, 0, 0, 0])
            .attribute(RTA_GATEWAY, &bytes)
            .attribute(RTA_OIF, &index(link)?.to_ne_bytes());
        self.ask(RTM_NEWROUTE, NLM_F_CREATE_EXCL, &message)
            .map_err(|errno| failure(&format!("no default route by {gateway}"), errno))
    }

    /// Makes this network namespace take every address for its own where no other route leads, in both families, so
    /// that whoever calls is refused instead of left waiting.
    ///
    /// # Errors
    /// When the kernel refuses, as for IPv6 on a machine without it.
    pub fn answer_for_all(&mut self) -> Result<()> {
        for family in [AddressFamily::Inet, AddressFamily::Inet6].map(libc_family) {
            let route = [family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_HOST, RTN_LOCAL, 0, 0, 0, 0];
            let message = Message(route.to_vec()).attribute(RTA_OIF, &index("lo")?.to_ne_bytes());
            self.ask(RTM_NEWROUTE, NLM_F_CREATE_EXCL, &message)
                .map_err(|errno| failure("no local route for all addresses", errno))?;
        }
        Ok(())
    }

    /// Sends one request and waits for its acknowledgement.
    fn ask(&mut self, kind: u16, flags: u16, message: &Message) -> nix::Result<()> {
        self.sequence += 1;
        let mut packet = u32::try_from(message.0.len() + 16).unwrap_or(u32::MAX).to_ne_bytes().to_vec();
        packet.extend(kind.to_ne_bytes());
        packet.extend((NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
        packet.extend(self.sequence.to_ne_bytes());
        packet.extend([0; 4]);
        packet.extend(&message.0);
        socket::send(self.socket.as_raw_fd(), &packet, MsgFlags::empty())?;
        let mut answer = [0_u8; 8192];
        let length = socket::recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        let word = |at: usize| -> Option<[u8; 4]> { answer.get(..length)?.get(at..at + 4)?.try_into().ok() };
        let kind = answer.get(4..6).and_then(|two| two.try_into().ok()).map(u16::from_ne_bytes);
        if kind != Some(NLMSG_ERROR) || word(8).map(u32::from_ne_bytes) != Some(self.sequence) {
            return Err(Errno::EPROTO);
        }
        match word(16).map(i32::from_ne_bytes) {
            Some(0) => Ok(()),
            Some(negative) => Err(Errno::from_raw(negative.saturating_neg())),
            None => Err(Errno::EPROTO),
        }
    }
}

fn libc_family(family: AddressFamily) -> u8 {
    u8::try_from(family as i32).unwrap_or(0)
}

fn index(link: &str) -> Result<u32> {
    nix::net::if_::if_nametoindex(link).map_err(|errno| failure(&format!("no link {link}"), errno))
}

fn failure(what: &str, errno: Errno) -> Failure {
    Failure::unknown("sandbox network", what).why(errno.desc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_to_four_bytes() {
        let message = Message(Vec::new()).name(IFLA_IFNAME, "lo").attribute(IFLA_NET_NS_PID, &7_u32.to_ne_bytes());
        let mut want = vec![];
        want.extend(7_u16.to_ne_bytes());
        want.extend(3_u16.to_ne_bytes());
        want.extend(b"lo\0\0");
        want.extend(8_u16.to_ne_bytes());
        want.extend(19_u16.to_ne_bytes());
        want.extend(7_u32.to_ne_bytes());
        assert_eq!(message.0, want);
    }

    #[test]
    fn the_kernel_answers_errors_as_errors() {
        let mut routing = Routing::open().unwrap();
        let refused = routing.up("keyward-none").unwrap_err();
        assert!(refused.what.contains("stays down"), "{refused}");
        assert!(routing.remove("keyward-none").is_ok());
    }
}
