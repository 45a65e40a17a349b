//! The table of encoders: what each is worth, on the same folds. What each costs is measured apart
//! (`cost`), when nothing else runs.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use moe2_gate::Embedder;
use serde_json::Value;

use super::{Judged, data};
use crate::Setting;

/// Every encoder that there are files for, on both sets of outcomes.
pub(crate) fn measure(setting: &Setting) -> anyhow::Result<Value> {
    let embedders = setting.embedders()?;
    let sets = [
        ("mmlu-pro", data::mmlu_pro(setting)?),
        ("demo-models", data::demo_models(setting)?),
    ];
    let mut quality = serde_json::Map::new();
    for (set, items) in sets {
        let judged = Judged::new(items, setting);
        let mut rows = serde_json::Map::new();
        setting.say(&format!("{set}: hashed"));
        rows.insert("hashed".to_owned(), judged.report(None, false, setting)?);
        for embedder in &embedders {
            setting.say(&format!("{set}: {}", embedder.name()));
            let kept: Arc<dyn Embedder> = Arc::new(Kept::new(embedder.clone()));
            let row = judged.report(Some(kept), false, setting)?;
            rows.insert(embedder.name().to_owned(), row);
        }
        quality.insert(set.to_owned(), rows.into());
    }
    Ok(Value::Object(quality))
}

/// Remembers vectors: five folds ask for each four times.
struct Kept {
    inner: Arc<dyn Embedder>,
    known: Mutex<HashMap<String, Vec<f32>>>,
}

impl Kept {
    fn new(inner: Arc<dyn Embedder>) -> Self {
        Self {
            inner,
            known: Mutex::default(),
        }
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl Embedder for Kept {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn width(&self) -> usize {
        self.inner.width()
    }

    fn digest(&self) -> &str {
        self.inner.digest()
    }

    fn embed(&self, text: &str) -> Vec<f32> {
        if let Some(vector) = self.known.lock().ok().and_then(|k| k.get(text).cloned()) {
            return vector;
        }
        let vector = self.inner.embed(text);
        if let Ok(mut known) = self.known.lock() {
            known.insert(text.to_owned(), vector.clone());
        }
        vector
    }
}
