//! The policy of each call: the permission and the module that its method option in the contract
//! declares.

use std::collections::HashMap;

use crate::{
    proto::{PACKAGE, POOL},
    roles::Roles,
};

/// The policy of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The call as `accounts.v1.AccountService/GetAccount`.
    pub method: &'static str,
    /// The permission that the caller needs: `accounts.read`.
    pub permission: &'static str,
    /// The roles that have the permission.
    pub roles: Roles,
    /// The module that must be activated: `customer_accounts`.
    pub module: &'static str,
    /// Whether the request is a stream of messages.
    pub is_stream: bool,
}

/// A call has no valid policy in the contract; the service does not start then.
#[derive(Debug, thiserror::Error)]
#[error("{method} in proto/: {fault}")]
pub struct PolicyError {
    method: String,
    fault: String,
}

/// The policies of all calls, by HTTP path.
#[derive(Debug)]
pub struct Policies(HashMap<String, Policy>);

impl Policies {
    /// Reads the policies from the descriptor set. Every call of the package must have one.
    pub fn read() -> Result<Self, PolicyError> {
        let mut policies = HashMap::new();
        for method in POOL
            .services()
            .filter(|service| service.package_name() == PACKAGE)
            .flat_map(|s| s.methods().collect::<Vec<_>>())
        {
            let name = format!("{}/{}", method.parent_service().full_name(), method.name());
            let policy = Self::of(&method, &name)
                .map_err(|fault| PolicyError { method: name.clone(), fault })?;
            policies.insert(format!("/{name}"), policy);
        }
        Ok(Self(policies))
    }

    /// The policy of the call with this path; `None` if there is no such call.
    pub fn get(&self, path: &str) -> Option<&Policy> {
        self.0.get(path)
    }

    /// All policies, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Policy> {
        self.0.values()
    }

    fn of(method: &prost_reflect::MethodDescriptor, name: &str) -> Result<Policy, String> {
        let extension = POOL
            .get_extension_by_name("accounts.v1.policy")
            .ok_or("the option accounts.v1.policy is not defined")?;
        let options = method.options();
        if !options.has_extension(&extension) {
            return Err("has no option (accounts.v1.policy)".to_owned());
        }
        let option = options.get_extension(&extension);
        let text = |field: &str| {
            let text = option.as_message().and_then(|policy| {
                policy.get_field_by_name(field)?.as_str().map(ToOwned::to_owned)
            });
            text.filter(|text| !text.is_empty()).ok_or_else(|| format!("its policy has no {field}"))
        };
        let permission = text("permission")?;
        let roles = Roles::having(&permission)
            .ok_or_else(|| format!("no role has the permission {permission}"))?;
        // Leaked once at the start, so that each call copies pointers only.
        Ok(Policy {
            method: leak(name.to_owned()),
            permission: leak(permission),
            roles,
            module: leak(text("module")?),
            is_stream: method.is_client_streaming(),
        })
    }
}

fn leak(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}
