//! A small ssh-agent: it lists keys and signs.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use russh::keys::PrivateKey;
use russh::keys::signature::Signer as _;
use russh::keys::ssh_key::Signature;
use russh::keys::ssh_key::encoding::{Decode as _, Encode as _};

/// Serves `keys` until the test ends.
pub fn serve(directory: &Path, keys: Vec<PrivateKey>) -> PathBuf {
    let socket = directory.join("agent.socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let keys = Arc::new(keys);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let keys = Arc::clone(&keys);
            std::thread::spawn(move || talk(stream, &keys));
        }
    });
    socket
}

fn talk(mut stream: UnixStream, keys: &[PrivateKey]) {
    loop {
        let mut length = [0; 4];
        if stream.read_exact(&mut length).is_err() {
            return;
        }
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut frame).unwrap();
        let answer = match frame[0] {
            11 => {
                let mut answer = vec![12];
                answer.extend(u32::try_from(keys.len() + 1).unwrap().to_be_bytes());
                // A key of a type that nobody knows yet.
                b"\0\0\0\x0bssh-future1".as_slice().encode(&mut answer).unwrap();
                "future".encode(&mut answer).unwrap();
                for key in keys {
                    key.public_key().to_bytes().unwrap().encode(&mut answer).unwrap();
                    "comment".encode(&mut answer).unwrap();
                }
                answer
            }
            13 => {
                let mut rest = &frame[1..];
                let blob = Vec::<u8>::decode(&mut rest).unwrap();
                let data = Vec::<u8>::decode(&mut rest).unwrap();
                let key = keys.iter().find(|key| key.public_key().to_bytes().unwrap() == blob).unwrap();
                let signature: Signature = key.try_sign(&data).unwrap();
                let mut answer = vec![14];
                signature.encode_prefixed(&mut answer).unwrap();
                answer
            }
            _ => vec![5],
        };
        stream.write_all(&u32::try_from(answer.len()).unwrap().to_be_bytes()).unwrap();
        stream.write_all(&answer).unwrap();
    }
}
