//! A device's tenant, in its writer ([`crate::device`] says what for). [`record`] makes mutations of
//! what statements have done, [`news`] takes what the server says, [`define`] its definitions, [`rows`]
//! puts rows as they are, without triggers, [`store`] has the collections.

pub(crate) mod define;
mod news;
mod record;
mod rows;
pub(crate) mod store;
