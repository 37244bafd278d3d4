//! What older changes of a run have put back already, while a newer one could not be undone: that stays.

use crate::host::{Actor, Host, Image};
use crate::journal::Undo;
use crate::types::AbsPath;

use super::rollback::Made;

/// A change that could not be undone before an older one was: what that one has put back is older still, and stays.
pub(super) fn forget_what_is_older(undone: &Made, later: &mut [Made]) {
    let put_back = |path: &AbsPath| {
        undone.undos.iter().any(|undo| match undo {
            Undo::Restore { path: older, image: Image::Absent, .. } => path.is_within(older),
            Undo::Restore { path: older, .. } => path == older,
            _ => false,
        })
    };
    for change in later.iter_mut().filter(|change| !change.undone) {
        change.undos.retain(|undo| !matches!(undo, Undo::Restore { path, .. } if put_back(path)));
    }
}

/// True for a path below a directory that an older change of the run made, and that is gone again: an undo whose records
/// could not be written has come further than the journal tells.
pub(super) fn is_gone(path: &AbsPath, older: &[Made], host: &dyn Host) -> bool {
    older.iter().flat_map(|made| &made.undos).any(|undo| match undo {
        Undo::Restore { path: dir, image: Image::Absent, .. } if dir != path && path.is_within(dir) => {
            matches!(host.meta(dir, &Actor::Root), Ok(None))
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::rollback::made;
    use super::*;
    use crate::change::Stage;
    use crate::journal::Record;

    /// A key, what is put back, and whether this tells of an undo and how it went.
    type Line<'a> = (&'a str, &'a [(&'a str, Image)], Option<bool>);

    /// A change of these keys and what its undo puts back, or that it was undone, and whether that went well.
    fn told(lines: &[Line<'_>]) -> Vec<Record> {
        let mut records = Vec::new();
        for (key, images, undone) in lines {
            let key = (*key).to_owned();
            if let Some(well) = undone {
                let failures = if *well { Vec::new() } else { vec!["no space".to_owned()] };
                records.push(Record::Undone { key, failures });
                continue;
            }
            let (summary, stage) = (String::new(), Some(Stage::Additive));
            let (forward, backward) = (Vec::new(), Vec::new());
            records.push(Record::Change { key: key.clone(), summary, stage, forward, backward });
            for (step, (path, image)) in images.iter().enumerate() {
                let path = <AbsPath as crate::types::Word>::parse(path).unwrap();
                let undo = Undo::Restore { path, actor: Actor::Root, image: image.clone(), left: None, marks: None };
                records.push(Record::Intent { key: key.clone(), step, undo });
            }
        }
        records
    }

    #[test]
    fn what_an_older_change_has_put_back_stays() {
        let file = Image::File { content: b"x".to_vec(), mode: 0o600, uid: 0, gid: 0, xattrs: BTreeMap::new() };
        let first: Line<'_> = ("a", &[("/d", Image::Absent), ("/d/f", Image::Absent)], None);
        let second: &[(&str, Image)] = &[("/d/f", file.clone()), ("/e", file)];
        // The newer one met a full disk, the older one only had to remove.
        let list = made(&told(&[first, ("b", second, None), ("b", &[], Some(false)), ("a", &[], Some(true))]));
        let left: Vec<&str> = list[1]
            .undos
            .iter()
            .filter_map(|undo| match undo {
                Undo::Restore { path, .. } => Some(path.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!((list[1].undone, left.as_slice()), (false, ["/e"].as_slice()));
        // One that was made after the other was undone is undone whole.
        let list = made(&told(&[first, ("a", &[], Some(true)), ("b", second, None)]));
        assert_eq!(list[1].undos.len(), 2);
    }
}
