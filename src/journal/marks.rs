//! What a step leaves at a path beside the content: who may do what with it. So a later change of that is noticed as an
//! edit of the content is.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::host::{Actor, Image, Node, Owner};

/// Mode, owner and attributes, as far as they are known before the step runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// Permission bits.
    pub mode: u32,
    /// Owner and group; `None` where a user's own account decides.
    pub owner: Option<(u32, u32)>,
    /// Digest of the extended attributes; `None` where the directory or a change of mode decides.
    pub xattrs: Option<String>,
}

/// The kernel itself renews these with the content.
const KERNELS: [&str; 2] = ["security.ima", "security.evm"];

impl Marks {
    /// Those of what stands there; `None` where a link or nothing does.
    pub fn of(image: &Image) -> Option<Self> {
        let (Image::File { mode, uid, gid, xattrs, .. } | Image::Dir { mode, uid, gid, xattrs }) = image else {
            return None;
        };
        let mut hash = Sha256::new();
        for (name, value) in xattrs.iter().filter(|(name, _)| !KERNELS.contains(&name.as_str())) {
            // Lengths keep a name and its value apart.
            hash.update(format!("{} {} {name}", name.len(), value.len()));
            hash.update(value);
        }
        let xattrs = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Some(Self { mode: *mode, owner: Some((*uid, *gid)), xattrs: Some(xattrs) })
    }

    /// Those that an image will have once it is put back.
    pub fn restored(image: &Image, actor: &Actor) -> Option<Self> {
        let marks = Self::of(image)?;
        Some(Self { owner: marks.owner.filter(|_| *actor == Actor::Root), ..marks })
    }

    /// Those that `node` will have once it stands where `before` does.
    pub fn put(node: &Node, actor: &Actor, before: &Image) -> Self {
        let (Node::File { mode, owner, .. } | Node::Dir { mode, owner }) = node;
        let owner = match owner {
            Owner::Ids { uid, gid } => Some((*uid, *gid)),
            Owner::Actor => (*actor == Actor::Root).then_some((0, 0)),
        };
        // A change of mode also changes an access list, which is an attribute.
        let kept = Self::of(before).filter(|before| before.mode == *mode);
        Self { mode: *mode, owner, xattrs: kept.and_then(|before| before.xattrs) }
    }

    /// True when `now` still has them.
    pub fn fit(&self, now: &Image) -> bool {
        Self::of(now).is_none_or(|now| {
            self.mode == now.mode
                && (self.owner.is_none() || self.owner == now.owner)
                && (self.xattrs.is_none() || self.xattrs == now.xattrs)
        })
    }
}
