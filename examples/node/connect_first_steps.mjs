// First steps with Customer Accounts in Node, with @connectrpc/connect and what `buf generate` made.
// Connect speaks gRPC here: the service has no other protocol.
//
// Usage: node connect_first_steps.mjs ADDRESS TENANT GENERATED_FOLDER

import { randomUUID } from "node:crypto";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";

const [address, tenant, generated] = process.argv.slice(2);
const load = (file) => import(pathToFileURL(resolve(generated, file)));
const { AccountService } = await load("accounts/v1/accounts_pb.js");
const { MembershipService } = await load("accounts/v1/memberships_pb.js");
const { OrganizationService } = await load("accounts/v1/organizations_pb.js");
const { PersonService } = await load("accounts/v1/people_pb.js");
const { ErrorInfoSchema } = await load("google/rpc/error_details_pb.js");

// A service that asks for tokens wants `authorization: Bearer …` instead.
const identify = (next) => (request) => {
  request.header.set("x-tenant-id", tenant);
  return next(request);
};
const transport = createGrpcTransport({
  baseUrl: `http://${address}`,
  interceptors: [identify],
  defaultTimeoutMs: 10_000,
});
const organizations = createClient(OrganizationService, transport);
const accounts = createClient(AccountService, transport);
const people = createClient(PersonService, transport);
const memberships = createClient(MembershipService, transport);

// The reason of an error, such as ETAG_MISMATCH.
const reason = (error) => ConnectError.from(error).findDetails(ErrorInfoSchema)[0]?.reason;

// Sends a change, again if necessary. Because of its requestId the change is made once.
async function change(method, request) {
  request.requestId = randomUUID();
  const again = [Code.Unavailable, Code.DeadlineExceeded, Code.Unknown];
  for (let attempt = 0; ; attempt++) {
    try {
      return await method(request);
    } catch (error) {
      const repeatable = again.includes(ConnectError.from(error).code);
      if (attempt === 2 || !(repeatable || reason(error) === "CONFLICT")) throw error;
    }
  }
}

const { organization } = await change(organizations.createOrganization, {
  organization: { displayName: "Acme" },
});
const { organizationId } = organization;
const create = {
  account: {
    displayName: "Acme Corporation",
    organizationId,
    primaryContact: { name: "Jane Doe", email: "purchasing@acme.example" },
    billingAddress: { city: "Berlin" },
  },
};
const created = (await change(accounts.createAccount, create)).account;
console.log("created", created.displayName);
// The request has its requestId now: sent again, it gets the first answer and creates nothing.
const again = (await accounts.createAccount(create)).account;
console.log("repeated", again.accountId === created.accountId ? "same" : "another");

const { accountId } = created;
const read = (await accounts.getAccount({ accountId })).account;
console.log("read", read.billingAddress.city);
console.log("listed", (await accounts.listAccounts({ organizationId })).accounts.length);

const update = {
  account: { accountId, etag: read.etag, billingAddress: { city: "Hamburg" } },
  updateMask: { paths: ["billing_address.city"] },
};
const updated = (await change(accounts.updateAccount, update)).account;
console.log("updated", updated.billingAddress.city);
try {
  await change(accounts.updateAccount, update); // its etag is no longer the current one
} catch (error) {
  console.log("refused", reason(error));
}

const { person } = await change(people.createPerson, { person: { displayName: "Jane Doe" } });
const member = await change(memberships.addAccountUser, {
  accountId,
  personId: person.personId,
  endDate: { year: 2099, month: 12, day: 31 },
});
console.log("member until", member.accountUser.endDate.year);
