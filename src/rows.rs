//! How the rows of a resource are found by their ids: in the tenant, as far as the caller sees
//! them, and only where the module of the call is on.

/// The query for rows by their id, as far as the caller sees them. A table whose rows everyone in
/// the tenant sees names no condition.
macro_rules! by_id {
    ($tx:expr, $table:ident.$id:ident.$is:ident($wanted:expr) $(, $seen:ident)?) => {
        $table::table
            .filter($tx.owns($table::tenant_id))
            .filter($table::$id.$is($wanted)$(.and($tx.$seen()))?)
    };
    ($tx:expr, ($table:ident.$id:ident $(, $seen:ident)?), $is:ident, $wanted:expr) => {
        $crate::rows::by_id!($tx, $table.$id.$is($wanted) $(, $seen)?).select(Self::as_select())
    };
}
pub(crate) use by_id;

/// Sets columns of the row with this id, and with them its revision and the time of its change.
/// Sends the statement as [`crate::db::Tx::send_returning`] does, and returns the row. The caller
/// must hold the lock of the row.
macro_rules! set_row {
    ($tx:expr, $row:ty: $table:ident.$id:ident($wanted:expr), $columns:expr) => {
        $tx.send_returning::<_, $row>(
            diesel::update($crate::rows::by_id!($tx, $table.$id.eq($wanted)))
                .set((
                    $columns,
                    $table::revision.eq($table::revision + 1),
                    $table::update_time.eq(diesel::dsl::now),
                ))
                .returning(<$row>::as_returning()),
        )
    };
}
pub(crate) use set_row;

/// Fails if the module of the call is off for one of the rows.
macro_rules! require_module {
    ($tx:expr, $rows:expr, ()) => {};
    ($tx:expr, $rows:expr, ($require:ident(|$row:ident| $governed:expr))) => {
        $crate::modules::$require($tx, $rows.map(|$row| $governed)).await?;
    };
}
pub(crate) use require_module;

/// Implements `find` and `find_all` for the rows of a kind, and a method like `find` for each lock
/// that is named. The first brackets say where the id is and which condition decides who sees a
/// row; the second how the module is looked up, and for which organization or account. The methods
/// fail for an id that no visible row has, and where the module is off.
macro_rules! found_by_id {
    (
        $row:ident: $kind:expr, $seen:tt, $module:tt
        $(, $(#[$doc:meta])* $locked:ident: $lock:ident)*
    ) => {
        impl $row {
            /// Returns the row with this id.
            pub async fn find(tx: &$crate::db::Tx, id: &str) -> $crate::error::Result<Self> {
                let query = $crate::rows::by_id!(tx, $seen, eq, id);
                let found = $kind.found(id, query.first::<Self>(&mut tx.conn()).await)?;
                $crate::rows::require_module!(tx, [&found], $module);
                Ok(found)
            }

            /// Returns the rows with these ids, in the order of the ids.
            pub async fn find_all(
                tx: &$crate::db::Tx,
                ids: &$crate::batch::Ids,
            ) -> $crate::error::Result<Vec<Self>> {
                let query = $crate::rows::by_id!(tx, $seen, eq_any, ids.unique());
                let rows = query.load_stream::<Self>(&mut tx.conn()).await?;
                let found = ids.collect(tx, &$kind, rows).await?;
                $crate::rows::require_module!(tx, found.iter(), $module);
                Ok(found)
            }

            $(
                $(#[$doc])*
                pub async fn $locked(
                    tx: &$crate::db::WriteTx,
                    id: &str,
                ) -> $crate::error::Result<Self> {
                    let query = $crate::rows::by_id!(tx, $seen, eq, id).$lock();
                    let found = $kind.found(id, query.first::<Self>(&mut tx.conn()).await)?;
                    $crate::rows::require_module!(tx, [&found], $module);
                    Ok(found)
                }
            )*
        }
    };
}
pub(crate) use found_by_id;
