//! Answers fetched side by side for one look at the host, and given again to whoever asks the same.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use super::{child, sockets};
use crate::error::{Kind, Result};
use crate::host::{Command, Listener, Output};
use crate::types::AbsPath;

/// The present look; none most of the time.
#[derive(Debug, Default)]
pub struct Ahead(Mutex<Option<Look>>);

#[derive(Debug, Default)]
struct Look {
    asked: Vec<Asked>,
    listeners: Option<Vec<Listener>>,
    /// Whole files, as root reads them: some are wanted by every task.
    files: BTreeMap<AbsPath, Option<Vec<u8>>>,
    /// Names in directories.
    names: BTreeMap<AbsPath, Option<Vec<String>>>,
}

#[derive(Debug)]
struct Asked {
    question: Command,
    /// Until its answer was called for.
    thread: Option<JoinHandle<Result<Output>>>,
    answer: Option<Result<Output>>,
}

impl Ahead {
    /// Begins a look, or adds these questions to the one that is on.
    pub fn add(&self, questions: &[Command]) {
        let mut look = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let look = look.get_or_insert_default();
        for question in questions {
            look.fetch(question);
        }
    }

    /// Ends the look.
    pub fn end(&self) {
        let before = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A question that nobody came back to still has its child, which must not outlive the look.
        for asked in before.into_iter().flat_map(|look| look.asked) {
            drop(asked.thread.map(JoinHandle::join));
        }
    }

    /// The answer of this look to `question`; `None` when it was not among the questions.
    pub fn answer(&self, question: &Command) -> Option<Result<Output>> {
        let mut look = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = look.as_mut()?.asked.iter_mut().find(|asked| asked.question == *question)?;
        if let Some(thread) = asked.thread.take() {
            asked.answer = thread.join().ok();
        }
        asked.answer.clone()
    }

    /// A file, read once in a look.
    ///
    /// # Errors
    /// Those of `read`, which is tried again the next time.
    pub fn file(&self, path: &AbsPath, read: impl FnOnce() -> Result<Option<Vec<u8>>>) -> Result<Option<Vec<u8>>> {
        self.once(path, |look| &mut look.files, read)
    }

    /// The names in a directory, listed once in a look.
    ///
    /// # Errors
    /// Those of `list`, which is tried again the next time.
    pub fn names(
        &self,
        path: &AbsPath,
        list: impl FnOnce() -> Result<Option<Vec<String>>>,
    ) -> Result<Option<Vec<String>>> {
        self.once(path, |look| &mut look.names, list)
    }

    fn once<T: Clone>(
        &self,
        path: &AbsPath,
        known: impl FnOnce(&mut Look) -> &mut BTreeMap<AbsPath, T>,
        find: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let mut look = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(look) = look.as_mut() else { return find() };
        let known = known(look);
        if let Some(found) = known.get(path) {
            return Ok(found.clone());
        }
        let found = find()?;
        known.insert(path.clone(), found.clone());
        Ok(found)
    }

    /// The sockets that take what strangers send, looked up once in a look.
    pub fn listeners(&self) -> Result<Vec<Listener>> {
        let mut look = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(look) = look.as_mut() else { return sockets::listeners() };
        if let Some(known) = &look.listeners {
            return Ok(known.clone());
        }
        let found = sockets::listeners()?;
        look.listeners = Some(found.clone());
        Ok(found)
    }
}

impl Look {
    fn fetch(&mut self, question: &Command) {
        if self.asked.iter().any(|asked| asked.question == *question) {
            return;
        }
        let command = question.clone();
        let thread = std::thread::Builder::new().spawn(move || child::run(&command, Kind::Unknown));
        // Without a thread it is asked when its turn comes.
        if let Ok(thread) = thread {
            self.asked.push(Asked { question: question.clone(), thread: Some(thread), answer: None });
        }
    }
}
