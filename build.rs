//! Compiles the contract in `proto/` with a compiler written in Rust, so that the machine needs no
//! protoc.
//!
//! It generates the server side of the services, the descriptor set (for reflection, policies and
//! field masks), implementations of the traits that messages of one shape share (see `shapes`), and
//! the limits of each request (`codec::Bounded`). The messages themselves come from the crate
//! `customer-accounts-client`.

use std::{collections::BTreeSet, env, error::Error, fmt::Write as _, fs, path::PathBuf};

use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor, Value};
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

/// Most limits of one request; equal to `codec::MAX_LIMITS`.
const MAX_LIMITS: usize = 16;

#[expect(clippy::disallowed_methods, reason = "OUT_DIR is how cargo speaks to build scripts")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=migrations");

    let mut files = Vec::new();
    for entry in fs::read_dir("proto/accounts/v1")? {
        files.push(entry?.path());
    }
    files.sort();
    // No message of the contract contains the details of errors, but errors do.
    files.push("proto/google/rpc/error_details.proto".into());

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true).open_files(files)?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // `encode_file_descriptor_set` keeps the custom method options, which `file_descriptor_set`
    // would drop.
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;

    let descriptors = compiler.file_descriptor_set();
    fs::write(out.join("shapes.rs"), shapes(&descriptors)?)?;
    fs::write(out.join("limits.rs"), limits(&compiler.descriptor_pool())?)?;
    tonic_prost_build::configure()
        .build_client(false)
        .codec_path("crate::codec::Codec")
        .extern_path(".accounts.v1", "::customer_accounts_client::accounts::v1")
        .extern_path(".google.rpc", "::tonic_types::pb")
        .extern_path(".google.type", "::customer_accounts_client::google::r#type")
        .compile_fds(descriptors)?;
    Ok(())
}

/// Implements the traits that messages share because they have the same fields:
///
/// | a message with | is |
/// |---|---|
/// | `request_id` and `validate_only` | `db::Change` |
/// | `page_size`, `page_token`, `order_by` and `include_total_size` | `page::Paged` |
/// | an id as its first field | `change::Named` |
/// | an id as its first field, `etag` and `request_id` | `change::Etagged` |
/// | a list of ids as its first field | `batch::Batch` |
/// | a resource as its first field, `update_mask` and `request_id` | `change::Updating` |
/// | a resource that such a message updates | `change::Content` |
fn shapes(descriptors: &FileDescriptorSet) -> Result<String, Box<dyn Error>> {
    let mut code = String::new();
    let files = descriptors.file.iter().filter(|file| file.package() == "accounts.v1");
    let messages: Vec<_> = files.flat_map(|file| &file.message_type).collect();
    for message in &messages {
        let name = message.name();
        let has = |wanted| message.field.iter().any(|field| field.name() == wanted);
        if has("request_id") && has("validate_only") {
            writeln!(
                code,
                "impl crate::db::Change for {name} {{\n    \
                 fn request_id(&self) -> &str {{ &self.request_id }}\n    \
                 fn validate_only(&self) -> bool {{ self.validate_only }}\n    \
                 fn for_real(&self) -> Self {{\n        \
                 Self {{ validate_only: false, ..self.clone() }}\n    }}\n}}"
            )?;
        }
        if has("page_size") && has("page_token") {
            writeln!(
                code,
                "impl crate::page::Paged for {name} {{\n    \
                 fn take_page(&mut self) -> (i32, String) {{\n        \
                 (std::mem::take(&mut self.page_size), \
                 std::mem::take(&mut self.page_token))\n    }}\n    \
                 fn take_total(&mut self) -> bool {{\n        \
                 std::mem::take(&mut self.include_total_size)\n    }}\n    \
                 fn order(&self) -> std::result::Result<crate::page::Order, i32> {{\n        \
                 match self.order_by {{ {} number => Err(number) }}\n    }}\n}}",
                orders(descriptors, message)?
            )?;
        }
        let Some(first) = message.field.first().filter(|_| name.ends_with("Request")) else {
            continue;
        };
        let (field, is_text) = (first.name(), first.r#type() == Type::String);
        if is_text && field.ends_with("_id") {
            writeln!(
                code,
                "impl crate::change::Named for {name} {{\n    \
                 const ID: &'static str = {field:?};\n    \
                 fn take_id(&mut self) -> String {{ std::mem::take(&mut self.{field}) }}\n}}"
            )?;
            if has("etag") && has("request_id") {
                writeln!(
                    code,
                    "impl crate::change::Etagged for {name} {{\n    \
                     fn take_etag(&mut self) -> String {{ std::mem::take(&mut self.etag) }}\n}}"
                )?;
            }
        }
        if is_text && field.ends_with("_ids") && first.label() == Label::Repeated {
            writeln!(
                code,
                "impl crate::batch::Batch for {name} {{\n    \
                 const IDS: &'static str = {field:?};\n    \
                 fn ids(self) -> Vec<String> {{ self.{field} }}\n}}"
            )?;
        }
        if has("update_mask") && has("request_id") {
            let resource = first.type_name().trim_start_matches(".accounts.v1.");
            let content = messages.iter().find(|message| message.name() == resource);
            let content = content.ok_or_else(|| format!("{name} updates no resource"))?;
            writeln!(
                code,
                "impl crate::change::Updating for {name} {{\n    \
                 type Resource = {resource};\n    \
                 fn parts(self) -> \
                 (Option<{resource}>, Option<prost_types::FieldMask>) {{\n        \
                 (self.{field}, self.update_mask)\n    }}\n}}"
            )?;
            code += &self::content(content, field)?;
        }
    }
    Ok(code)
}

/// Implements `change::Content` for a resource that is the field `field` of an update request. An
/// id that is named after the resource is its only id. Otherwise its ids are its first fields, as
/// far as their names end with `_id`.
fn content(resource: &DescriptorProto, field: &str) -> Result<String, std::fmt::Error> {
    let mut code = String::new();
    let own = format!("{field}_id");
    let names = resource.field.iter().map(FieldDescriptorProto::name);
    let ids: Vec<_> = if names.clone().next() == Some(&own) {
        vec![&*own]
    } else {
        names.take_while(|name| name.ends_with("_id")).collect()
    };
    let values: Vec<_> = ids.iter().map(|id| format!("&self.{id}")).collect();
    writeln!(
        code,
        "impl crate::change::Content for {name} {{\n    \
         const FIELD: &'static str = {field:?};\n    \
         const IDS: &'static [&'static str] = &{ids:?};\n    \
         fn ids(&self) -> Vec<&str> {{ vec![{values}] }}\n    \
         fn etag(&self) -> &str {{ &self.etag }}\n}}",
        name = resource.name(),
        values = values.join(", "),
    )?;
    Ok(code)
}

/// Makes the orders of a list: the arms of a match over the numbers of its `order_by` enum. The
/// name of a value leads to the variant: `…_CREATE_TIME_DESC` to `page::By::CreateTime`. A request
/// without an order gets that of value 1.
fn orders(
    descriptors: &FileDescriptorSet,
    request: &DescriptorProto,
) -> Result<String, Box<dyn Error>> {
    let order_by = request.field.iter().find(|field| field.name() == "order_by");
    let order_by = order_by.ok_or_else(|| format!("{} has no order_by", request.name()))?;
    let name = order_by.type_name().rsplit('.').next().unwrap_or_default();
    let mut enums = descriptors.file.iter().flat_map(|file| &file.enum_type);
    let values = enums.find(|of| of.name() == name).map(|of| &of.value).ok_or("an unknown enum")?;
    let prefix = values.iter().find_map(|value| value.name().strip_suffix("UNSPECIFIED"));
    let prefix = prefix.ok_or_else(|| format!("{name} has no value UNSPECIFIED"))?;
    let mut arms = String::new();
    for value in values.iter().filter(|value| value.number() != 0) {
        let order = value.name().strip_prefix(prefix).unwrap_or_default();
        let (order, descending) =
            order.strip_suffix("_DESC").map_or((order, false), |order| (order, true));
        let words = order.split('_').filter_map(|word| word.split_at_checked(1));
        let by: String =
            words.map(|(first, rest)| first.to_owned() + &rest.to_lowercase()).collect();
        let number =
            if value.number() == 1 { "0 | 1".to_owned() } else { value.number().to_string() };
        write!(
            arms,
            "{number} => Ok(crate::page::Order {{ by: crate::page::By::{by}, \
             descending: {descending} }}), "
        )?;
    }
    Ok(arms)
}

/// Implements `codec::Bounded` for the request message of every call, and for the elements of lists
/// whose elements have limits of their own.
fn limits(pool: &DescriptorPool) -> Result<String, Box<dyn Error>> {
    let methods = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
    let mut names: BTreeSet<_> =
        methods.map(|method| method.input().full_name().to_owned()).collect();
    let mut code = String::new();
    while let Some(name) = names.pop_first() {
        let message =
            pool.get_message_by_name(&name).ok_or("a message that the pool does not have")?;
        let mut bounds = Bounds::of(pool);
        let shape = bounds.shape(&message, "")?;
        if bounds.limits.len() > MAX_LIMITS {
            return Err(format!(
                "{name} has more than {MAX_LIMITS} limits: raise codec::MAX_LIMITS"
            )
            .into());
        }
        names.extend(std::mem::take(&mut bounds.elements));
        let (name, limits) = (message.name(), bounds.limits.concat());
        writeln!(
            code,
            "impl crate::codec::Bounded for {name} {{\n    \
             const BOUNDS: crate::codec::Bounds = \
             crate::codec::Bounds {{ shape: {shape}, limits: &[{limits}] }};\n}}"
        )?;
    }
    Ok(code)
}

/// The limits of one request, as code.
struct Bounds<'a> {
    pool: &'a DescriptorPool,
    limits: Vec<String>,
    /// The messages that contain the present one.
    around: Vec<String>,
    /// In a list whose elements have limits of their own: the items and bytes that each limit has in
    /// all elements together.
    inside: Option<(u32, u32)>,
    /// The elements of such lists, which are measured by themselves too.
    elements: Vec<String>,
}

impl<'a> Bounds<'a> {
    const fn of(pool: &'a DescriptorPool) -> Self {
        Self { pool, limits: Vec::new(), around: Vec::new(), inside: None, elements: Vec::new() }
    }

    /// Makes the fields of a message that lead to a limit. Fails if a field needs a limit and
    /// declares none.
    fn shape(&mut self, message: &MessageDescriptor, path: &str) -> Result<String, Box<dyn Error>> {
        if self.around.iter().any(|around| around == message.full_name()) {
            return Err(format!(
                "{} contains itself: nothing bounds how much it holds",
                message.full_name()
            )
            .into());
        }
        self.around.push(message.full_name().to_owned());
        let mut fields = String::new();
        for field in message.fields() {
            if let Some(rule) = self.rule(&field, &format!("{path}{}", field.name()))? {
                let number = field.number();
                write!(
                    fields,
                    "crate::codec::Field {{ number: {number}, rule: crate::codec::Rule::{rule} }}, "
                )?;
            }
        }
        self.around.pop();
        Ok(format!("&[{fields}]"))
    }

    /// Makes the rule of a field, if it has a limit or contains a field that has one.
    fn rule(
        &mut self,
        field: &FieldDescriptor,
        path: &str,
    ) -> Result<Option<String>, Box<dyn Error>> {
        let kind = field.kind();
        if field.is_list() || field.is_map() {
            let limit = self.limit(field, path)?;
            let packed = match &kind {
                Kind::String | Kind::Bytes | Kind::Message(_) => "None",
                Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => "Some(8)",
                Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => "Some(4)",
                _ => "Some(0)",
            };
            let inside = match &kind {
                Kind::Message(element) => {
                    let around = self.inside;
                    if let (Some(items), Some(bytes)) =
                        (self.number(field, "inside")?, self.number(field, "bytes")?)
                    {
                        self.inside = Some((items, bytes));
                        self.elements.push(element.full_name().to_owned());
                    }
                    let inside = self.shape(element, &format!("{path}[]."))?;
                    self.inside = around;
                    inside
                }
                _ => "&[]".to_owned(),
            };
            return Ok(Some(format!(
                "Items {{ limit: {limit}, packed: {packed}, inside: {inside} }}"
            )));
        }
        let Kind::Message(inner) = kind else { return Ok(None) };
        match inner.full_name() {
            "google.protobuf.Struct" => {
                Ok(Some(format!("Values {{ limit: {} }}", self.limit(field, path)?)))
            }
            "google.protobuf.FieldMask" => {
                let limit = self.limit(field, path)?;
                let paths = format!("Items {{ limit: {limit}, packed: None, inside: &[] }}");
                let paths = format!(
                    "crate::codec::Field {{ number: 1, rule: crate::codec::Rule::{paths} }}"
                );
                Ok(Some(format!("Inside(&[{paths}])")))
            }
            "google.protobuf.Value" | "google.protobuf.ListValue" | "google.protobuf.Any" => {
                Err(format!(
                    "{}: codec.rs has no rule for {} in a request",
                    field.full_name(),
                    inner.full_name()
                )
                .into())
            }
            _ => {
                let inside = self.shape(&inner, &format!("{path}."))?;
                Ok((inside != "&[]").then(|| format!("Inside({inside})")))
            }
        }
    }

    /// Adds the limit that a field declares, and returns its index.
    fn limit(&mut self, field: &FieldDescriptor, path: &str) -> Result<usize, Box<dyn Error>> {
        let numbers = field.is_list()
            && !matches!(field.kind(), Kind::String | Kind::Bytes | Kind::Message(_));
        let items = self
            .number(field, "items")?
            .ok_or_else(|| format!("{} has no limit of items", field.full_name()))?;
        let bytes = self.number(field, "bytes")?;
        if bytes.is_none() && !numbers {
            return Err(format!("{} has no limit of bytes", field.full_name()).into());
        }
        let (items, bytes) = match self.inside {
            Some((items, bytes)) => (items, Some(bytes)),
            None => (items, bytes),
        };
        let bytes = bytes.map_or_else(|| "u64::MAX".to_owned(), |bytes| bytes.to_string());
        self.limits.push(format!(
            "crate::codec::Limit {{ field: {path:?}, items: {items}, bytes: {bytes} }}, "
        ));
        Ok(self.limits.len() - 1)
    }

    /// A number of the limit that a field declares; `None` if it is 0 or there is no limit.
    fn number(&self, field: &FieldDescriptor, name: &str) -> Result<Option<u32>, Box<dyn Error>> {
        let extension = self
            .pool
            .get_extension_by_name("accounts.v1.limit")
            .ok_or("accounts.v1.limit is not defined")?;
        let options = field.options();
        let limit = options.get_extension(&extension);
        let number = limit.as_message().and_then(|limit| limit.get_field_by_name(name));
        Ok(number.as_deref().and_then(Value::as_u32).filter(|value| *value > 0))
    }
}
