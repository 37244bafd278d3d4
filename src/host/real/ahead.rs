//! Answers fetched side by side for one look at the host, and given again to whoever asks the same.

use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use super::{child, sockets};
use crate::error::{Kind, Result};
use crate::host::{Command, Listener, Output};

/// The present look; none most of the time.
#[derive(Debug, Default)]
pub struct Ahead(Mutex<Option<Look>>);

#[derive(Debug, Default)]
struct Look {
    asked: Vec<Asked>,
    listeners: Option<Vec<Listener>>,
}

#[derive(Debug)]
struct Asked {
    question: Command,
    /// Until its answer was called for.
    thread: Option<JoinHandle<Result<Output>>>,
    answer: Option<Result<Output>>,
}

impl Ahead {
    /// Begins a look with these questions; ends the one before. Without questions there is none.
    pub fn begin(&self, questions: &[Command]) {
        let look = (!questions.is_empty()).then(|| {
            let mut look = Look::default();
            for question in questions {
                look.fetch(question);
            }
            look
        });
        let before = std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), look);
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
