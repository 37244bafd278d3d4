//! Bytes as text where they are UTF-8, else as `{"base64": ...}`-like hex, so that plans and journals stay readable.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Form {
    Text(String),
    Hex { hex: String },
}

/// Serializes bytes.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(bytes: &[u8], out: S) -> Result<S::Ok, S::Error> {
    let form = match std::str::from_utf8(bytes) {
        Ok(text) => Form::Text(text.to_owned()),
        Err(_) => Form::Hex { hex: bytes.iter().map(|byte| format!("{byte:02x}")).collect() },
    };
    form.serialize(out)
}

/// Deserializes bytes.
///
/// # Errors
/// For hex that is not hex, and those of the deserializer.
pub fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<u8>, D::Error> {
    match Form::deserialize(input)? {
        Form::Text(text) => Ok(text.into_bytes()),
        Form::Hex { hex } => (0..hex.len())
            .step_by(2)
            .map(|at| hex.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()))
            .collect::<Option<Vec<u8>>>()
            .ok_or_else(|| serde::de::Error::custom("not hexadecimal")),
    }
}
