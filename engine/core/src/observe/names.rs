//! Names in metrics as small numbers, so that a request never hashes text.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most different names; later ones are counted as [`OTHER`].
pub const NAMES_MAX: usize = 65_536;
/// The id of the empty name.
pub const NONE: u32 = 0;
/// The id of everything past the bound.
pub const OTHER: u32 = 1;

/// Text to number and back.
#[derive(Debug)]
pub struct Names(Mutex<Table>);

#[derive(Debug)]
struct Table {
    ids: HashMap<Arc<str>, u32>,
    texts: Vec<Arc<str>>,
}

impl Default for Names {
    fn default() -> Names {
        let texts: Vec<Arc<str>> = vec!["".into(), "other".into()];
        let ids = texts.iter().cloned().zip(0..).collect();
        Names(Mutex::new(Table { ids, texts }))
    }
}

impl Names {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The id of `text`. Called while plans are built and connections opened, not per request.
    pub fn id(&self, text: &str) -> u32 {
        let mut table = self.table();
        if let Some(&id) = table.ids.get(text) {
            return id;
        }
        if table.texts.len() >= NAMES_MAX {
            return OTHER;
        }
        let Ok(id) = u32::try_from(table.texts.len()) else {
            return OTHER;
        };
        let shared: Arc<str> = text.into();
        table.ids.insert(Arc::clone(&shared), id);
        table.texts.push(shared);
        id
    }

    /// The text of `id`.
    pub fn text(&self, id: u32) -> Arc<str> {
        let table = self.table();
        Arc::clone(
            table
                .texts
                .get(id as usize)
                .unwrap_or(&table.texts[OTHER as usize]),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_text_has_the_same_id_and_comes_back() {
        let names = Names::default();
        let id = names.id("shop/cart");
        assert_eq!(names.id("shop/cart"), id);
        assert_eq!(&*names.text(id), "shop/cart");
        assert_eq!(names.id(""), NONE);
    }

    #[test]
    fn past_the_bound_all_are_other() {
        let names = Names::default();
        for index in 2..NAMES_MAX {
            names.id(&index.to_string());
        }
        assert_eq!(names.id("one more"), OTHER);
        assert_eq!(&*names.text(OTHER), "other");
    }
}
