// First steps with Customer Accounts in Node, with @grpc/grpc-js, which reads the contract itself. Nothing is generated.
//
// Usage: node first_steps.mjs ADDRESS TENANT PROTO_FOLDER

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(import.meta.url);
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, tenant, protos] = process.argv.slice(2);
const files = ["accounts", "memberships", "organizations", "people"].map((name) => `accounts/v1/${name}.proto`);
const definition = loader.loadSync([...files, "google/rpc/status.proto", "google/rpc/error_details.proto"], {
  includeDirs: [protos],
  keepCase: true,
  enums: String,
  longs: String,
  defaults: true,
});
const { accounts } = grpc.loadPackageDefinition(definition);
const options = { "grpc.service_config": readFileSync(join(protos, "grpc_service_config.json"), "utf8") };
const client = (name) => new accounts.v1[name](address, grpc.credentials.createInsecure(), options);
// A service that asks for tokens wants `authorization: Bearer …` instead.
const metadata = new grpc.Metadata();
metadata.set("x-tenant-id", tenant);

const call = (service, method, request) =>
  new Promise((resolve, reject) => {
    service[method](request, metadata, (error, answer) => (error ? reject(error) : resolve(answer)));
  });

// The reason of an error, such as ETAG_MISMATCH.
function reason(error) {
  const [details] = error.metadata?.get("grpc-status-details-bin") ?? [];
  const decode = (name, bytes) => definition[name].deserialize?.(bytes) ?? definition[name].type.decode(bytes);
  if (!details) return undefined;
  const info = decode("google.rpc.Status", details).details.find((any) => any.type_url.endsWith("/google.rpc.ErrorInfo"));
  return info && decode("google.rpc.ErrorInfo", info.value).reason;
}

// Sends a change, again if necessary. Because of its request_id the change is made once.
async function change(service, method, request) {
  request.request_id = randomUUID();
  const again = [grpc.status.UNAVAILABLE, grpc.status.DEADLINE_EXCEEDED, grpc.status.UNKNOWN];
  for (let attempt = 0; ; attempt++) {
    try {
      return await call(service, method, request);
    } catch (error) {
      if (attempt === 2 || !(again.includes(error.code) || reason(error) === "CONFLICT")) throw error;
    }
  }
}

const organizations = client("OrganizationService");
const accountService = client("AccountService");
const people = client("PersonService");
const memberships = client("MembershipService");

const { organization } = await change(organizations, "CreateOrganization", { organization: { display_name: "Acme" } });
const { organization_id } = organization;
const create = {
  account: {
    display_name: "Acme Corporation",
    organization_id,
    primary_contact: { name: "Jane Doe", email: "purchasing@acme.example" },
    billing_address: { city: "Berlin" },
  },
};
const created = (await change(accountService, "CreateAccount", create)).account;
console.log("created", created.display_name);
// The request has its request_id now: sent again, it gets the first answer and creates nothing.
const again = (await call(accountService, "CreateAccount", create)).account;
console.log("repeated", again.account_id === created.account_id ? "same" : "another");

const { account_id } = created;
const read = (await call(accountService, "GetAccount", { account_id })).account;
console.log("read", read.billing_address.city);
console.log("listed", (await call(accountService, "ListAccounts", { organization_id })).accounts.length);

const update = {
  account: { account_id, etag: read.etag, billing_address: { city: "Hamburg" } },
  update_mask: { paths: ["billing_address.city"] },
};
console.log("updated", (await change(accountService, "UpdateAccount", update)).account.billing_address.city);
try {
  await change(accountService, "UpdateAccount", update); // its etag is no longer the current one
} catch (error) {
  console.log("refused", reason(error));
}

const { person_id } = (await change(people, "CreatePerson", { person: { display_name: "Jane Doe" } })).person;
const member = { account_id, person_id, end_date: { year: 2099, month: 12, day: 31 } };
console.log("member until", (await change(memberships, "AddAccountUser", member)).account_user.end_date.year);
for (const service of [organizations, accountService, people, memberships]) service.close();
