//! Reads YAML. Its errors name the place and never quote the text: keys and tokens are in it.

use std::fmt;

use serde::de::DeserializeOwned;

/// Reads a file of one document.
pub(crate) fn document<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_saphyr::from_str(text).map_err(|error| without_text(&error))
}

/// Reads a file of any number of documents.
pub(crate) fn documents<T: DeserializeOwned>(text: &str) -> Result<Vec<T>, String> {
    serde_saphyr::from_multiple(text).map_err(|error| without_text(&error))
}

/// The first line of an error; the lines after it show the text.
fn without_text(error: &dyn fmt::Display) -> String {
    let all = error.to_string();
    let first = all.lines().next().unwrap_or_default();
    first.strip_prefix("error: ").unwrap_or(first).to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn an_error_names_its_line_and_does_not_quote_it() {
        for text in ["a: b\nkey: [hunter2", "a: b\nkey: 'hunter2", "a: b\nkey: hunter2: c", "a: b\n\tkey: hunter2"] {
            let error = documents::<Value>(text).unwrap_err();
            assert!(error.contains("line "), "{error}");
            assert!(!error.contains("hunter2") && !error.contains('\n'), "{error}");
        }
    }
}
