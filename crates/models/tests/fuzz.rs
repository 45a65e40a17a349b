//! Any bytes as a file that is read before it is trusted: a model's header, and the list of models.
//!
//! The targets are tests, which replay their corpus here; `docs/security.md` says how to run them longer.

#[cfg(test)]
mod targets {
    use std::io::Cursor;

    use moe2_models::gguf::inspect_reader;
    use moe2_models::{Manifest, ModelId};

    /// Bytes of memory for a byte of a header, at most, all of it counted that was ever taken: what is
    /// copied again for every value makes a small file slow.
    const PER_BYTE: u64 = 16;
    /// And for any file: a buffer to read through.
    const AT_LEAST: u64 = 16 * 1024;

    #[test]
    fn gguf() {
        bolero::check!(name = "gguf").for_each(|bytes: &[u8]| {
            let length = bytes.len() as u64;
            let mut read = None;
            let used = allocation_counter::measure(|| {
                read = Some(inspect_reader(Cursor::new(bytes), length));
            });
            let most = PER_BYTE * length + AT_LEAST;
            let total = used.bytes_total;
            assert!(total <= most, "{total} bytes for a file of {length}");
            if let Some(Ok(info)) = read {
                assert!(info.tensor_bytes <= length, "weights are in the file");
                assert!(!info.architecture.is_empty());
                // The sum that the agent tells the coordinator.
                let _ = info.kv_bytes_per_token(2);
            }
        });
    }

    #[test]
    fn manifest() {
        bolero::check!(name = "manifest").for_each(|bytes: &[u8]| {
            let Ok(text) = std::str::from_utf8(bytes) else {
                return;
            };
            match Manifest::parse(text) {
                Err(error) => assert!(!error.to_string().is_empty()),
                Ok(manifest) => {
                    for model in manifest.models() {
                        assert_eq!(ModelId::new(model.id.as_str()).as_ref(), Some(&model.id));
                        // Names of files are joined to a folder.
                        assert!(!model.file.contains('/') && !model.file.starts_with('.'));
                    }
                }
            }
        });
    }
}
