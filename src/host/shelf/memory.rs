//! Journals in memory, for law tests.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::{Durability, Held, Settled, Shelf};
use crate::error::{Failure, Result};

/// Journals in memory, for law tests.
#[derive(Debug, Default)]
pub struct MemoryShelf {
    runs: RefCell<BTreeMap<String, String>>,
    records: RefCell<BTreeMap<(String, String), String>>,
}

struct NoLock;

impl Held for NoLock {}

impl Shelf for MemoryShelf {
    fn lock(&self) -> Result<Box<dyn Held>> {
        Ok(Box::new(NoLock))
    }

    fn discard(&self, run: &str) {
        self.runs.borrow_mut().remove(run);
    }

    fn create(&self, run: &str) -> Result<()> {
        self.runs.borrow_mut().insert(run.to_owned(), String::new());
        Ok(())
    }

    fn append(&self, run: &str, line: &str, _: Durability) -> Result<()> {
        let mut runs = self.runs.borrow_mut();
        let journal = runs.get_mut(run).ok_or_else(|| Failure::failed(run, "no such run"))?;
        journal.push_str(line);
        journal.push('\n');
        Ok(())
    }

    fn read(&self, run: &str) -> Result<Option<String>> {
        Ok(self.runs.borrow().get(run).cloned())
    }

    fn replace(&self, run: &str, text: &str) -> Result<()> {
        self.runs.borrow_mut().insert(run.to_owned(), text.to_owned());
        Ok(())
    }

    fn runs(&self) -> Result<Vec<String>> {
        Ok(self.runs.borrow().keys().cloned().collect())
    }

    fn settle(&self, run: &str, name: &str, text: &str) -> Result<Settled> {
        let mut records = self.records.borrow_mut();
        match records.get(&(run.to_owned(), name.to_owned())) {
            Some(set) => Ok(Settled::Lost(set.clone())),
            None => {
                records.insert((run.to_owned(), name.to_owned()), text.to_owned());
                Ok(Settled::Won)
            }
        }
    }

    fn reserve(&self, _: &str) -> Result<()> {
        Ok(())
    }

    fn forget(&self, run: &str, name: &str) {
        self.records.borrow_mut().remove(&(run.to_owned(), name.to_owned()));
    }

    fn place(&self, run: &str, name: &str) -> String {
        format!("{run}.{name}")
    }

    fn settled(&self, run: &str, name: &str) -> Result<Option<String>> {
        Ok(self.records.borrow().get(&(run.to_owned(), name.to_owned())).cloned())
    }
}
