//! Roles, and the permissions that each has.

/// A set of roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Roles(u8);

impl Roles {
    /// Reads.
    pub const VIEWER: Self = Self(1);
    /// Reads, writes and approves.
    pub const EDITOR: Self = Self(2);
    /// Reads, writes, approves, deletes and configures.
    pub const ADMIN: Self = Self(4);

    /// The role with this name; no role if the name is unknown.
    pub fn named(name: &str) -> Self {
        match name {
            "viewer" => Self::VIEWER,
            "editor" => Self::EDITOR,
            "admin" => Self::ADMIN,
            _ => Self::default(),
        }
    }

    /// The roles that have a permission. Its verb decides: `accounts.read`, `.write`, `.approve`,
    /// `.delete` or `.configure`.
    pub fn having(permission: &str) -> Option<Self> {
        match permission.rsplit_once('.')?.1 {
            "read" => Some(Self::VIEWER.and(Self::EDITOR).and(Self::ADMIN)),
            "write" | "approve" => Some(Self::EDITOR.and(Self::ADMIN)),
            "delete" | "configure" => Some(Self::ADMIN),
            _ => None,
        }
    }

    /// The roles of both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the sets have a role in common.
    pub const fn any_of(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_follow_the_verb_of_the_permission() {
        let may = |role: Roles, permission| role.any_of(Roles::having(permission).unwrap());
        assert!(may(Roles::VIEWER, "accounts.read") && !may(Roles::VIEWER, "accounts.write"));
        assert!(may(Roles::EDITOR, "accounts.write") && !may(Roles::EDITOR, "accounts.delete"));
        assert!(
            may(Roles::ADMIN, "accounts.delete") && may(Roles::ADMIN, "account_types.configure")
        );
        assert!(
            may(Roles::EDITOR, "contracts.approve") && !may(Roles::VIEWER, "contracts.approve")
        );
        assert_eq!(Roles::having("accounts.frobnicate"), None);
        assert_eq!(Roles::named("root"), Roles::default());
    }
}
