//! What the checks look at, read once.

use std::rc::Rc;

use crate::access::{Doors, Look, is_read, ways};
use crate::error::{Failure, Result};
use crate::facts::Facts;
use crate::formats::sshd_effective::Effective;
use crate::host::{Listener, Probe};
use crate::outcome::ways::Ways;

/// One look at a host.
pub struct Scene<'a> {
    /// Reads.
    pub probe: &'a dyn Probe,
    /// What kind of host it is.
    pub facts: &'a Facts,
    /// Account databases and sshd's files.
    pub look: Look<'a>,
    ways: Result<Ways>,
    doors: Result<Doors>,
    listeners: Result<Vec<Listener>>,
}

impl<'a> Scene<'a> {
    /// Looks. What cannot be read is unknown to the checks that need it.
    ///
    /// # Errors
    /// When the account databases or sshd's files cannot be read: nothing could be said then.
    pub fn new(facts: &'a Facts, probe: &'a dyn Probe) -> Result<Self> {
        let look = Look::new(facts, probe, None)?;
        let (ways, doors) = (ways(facts, probe, None, &[]), Doors::new(&look));
        Ok(Self { probe, facts, look, ways, doors, listeners: probe.listeners() })
    }

    /// Who can get in.
    ///
    /// # Errors
    /// Why that cannot be told.
    pub fn ways(&self) -> Result<&Ways> {
        self.ways.as_ref().map_err(Clone::clone)
    }

    /// sshd's doors and the firewall of both families.
    ///
    /// # Errors
    /// Why they cannot be told.
    pub fn doors(&self) -> Result<&Doors> {
        self.doors.as_ref().map_err(Clone::clone)
    }

    /// All TCP sockets that listen.
    ///
    /// # Errors
    /// Why they cannot be told.
    pub fn listeners(&self) -> Result<&[Listener]> {
        self.listeners.as_deref().map_err(Clone::clone)
    }

    /// `file:line` of the first directive of a keyword of sshd; empty where the default holds.
    pub fn place(&self, keyword: &str) -> String {
        Some(self.look.place(keyword)).filter(|place| place.starts_with('/')).unwrap_or_default()
    }

    /// Where a condition of sshd asks for what is not asked about: the port and address that a client came to.
    pub fn by_socket(&self) -> Option<String> {
        let mut conditions =
            self.look.directives().filter(|(_, directive)| directive.keyword.eq_ignore_ascii_case("match"));
        let asks = |word: &String| {
            ["localport", "localaddress", "rdomain"].iter().any(|name| word.to_ascii_lowercase().starts_with(name))
        };
        let (place, _) = conditions.find(|(_, directive)| directive.args.iter().any(asks))?;
        Some(format!("{place}: a Match on the port or address that a client came to is not judged"))
    }

    /// Where a keyword of sshd is set for some only: below a Match, or in a file that is read from elsewhere.
    pub fn in_a_condition(&self, keyword: &str) -> Option<String> {
        let mut below = None;
        for (place, directive) in self.look.directives() {
            let file = place.rsplit_once(':').map(|(file, _)| file.to_owned()).unwrap_or_default();
            match directive.keyword.to_ascii_lowercase().as_str() {
                "match" => below = Some(file),
                "include" if !is_read(directive) => return Some(place),
                name if name.eq_ignore_ascii_case(keyword) && below == Some(file) => return Some(place),
                _ => {}
            }
        }
        None
    }

    /// What sshd says of its configuration; `None` where none is installed.
    ///
    /// # Errors
    /// Why it does not say.
    pub fn sshd(&self) -> Result<Option<Rc<Effective>>> {
        if !self.probe.has_program(crate::facts::SSHD) {
            return Ok(None);
        }
        let said = self.look.everybody();
        said.map(Some).map_err(|why| Failure::unknown("sshd -T", "does not say its configuration").why(why))
    }
}
