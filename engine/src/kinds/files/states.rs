//! What kinds keep for themselves while a tree is dumped or restored.

use std::any::{Any, TypeId};
use std::collections::HashMap;

/// What kinds keep for themselves between their calls: one value of each type.
#[derive(Debug, Default)]
pub struct States(HashMap<TypeId, Box<dyn Any>>);

impl States {
    /// The value of type `T`.
    pub fn get<T: Default + 'static>(&mut self) -> &mut T {
        let state = self.0.entry(TypeId::of::<T>()).or_insert_with(|| Box::<T>::default());
        state.downcast_mut().expect("it is stored under its own type")
    }

    /// The value of type `T`, if there is one.
    pub fn peek<T: 'static>(&self) -> Option<&T> {
        self.0.get(&TypeId::of::<T>())?.downcast_ref()
    }
}
