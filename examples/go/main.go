// First steps with Customer Accounts in Go. docs/CLIENTS.md says how to generate the code that it imports.
//
// Usage: first-steps ADDRESS TENANT SERVICE_CONFIG
package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io/ioutil"
	"log"
	"os"

	accountsv1 "customer-accounts/accounts/v1"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/genproto/googleapis/type/date"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

// reason returns the reason of an error, such as ETAG_MISMATCH, or "" if it does not come from the service.
func reason(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.Domain == "accounts.v1" {
			return info.Reason
		}
	}
	return ""
}

// change sends a change, again if necessary. Because of its request_id the change is made once.
func change(call func() error) error {
	for attempt := 0; ; attempt++ {
		err := call()
		switch code := status.Code(err); {
		case err == nil || attempt == 2:
			return err
		case code == codes.Unavailable || code == codes.DeadlineExceeded || code == codes.Unknown:
		case reason(err) == "CONFLICT":
		default:
			return err
		}
	}
}

func requestID() string {
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		log.Fatal(err)
	}
	return fmt.Sprintf("%x", id)
}

func must(err error) {
	if err != nil {
		log.Fatalf("%v (%s)", err, reason(err))
	}
}

func main() {
	address, tenant := os.Args[1], os.Args[2]
	config, err := ioutil.ReadFile(os.Args[3])
	must(err)
	channel, err := grpc.Dial(address, grpc.WithInsecure(), grpc.WithDefaultServiceConfig(string(config)))
	must(err)
	defer channel.Close()
	// A service that asks for tokens wants "authorization", "Bearer …" instead.
	ctx := metadata.AppendToOutgoingContext(context.Background(), "x-tenant-id", tenant)
	organizations := accountsv1.NewOrganizationServiceClient(channel)
	accounts := accountsv1.NewAccountServiceClient(channel)
	people := accountsv1.NewPersonServiceClient(channel)
	memberships := accountsv1.NewMembershipServiceClient(channel)

	var organizationID string
	newOrganization := &accountsv1.CreateOrganizationRequest{
		Organization: &accountsv1.Organization{DisplayName: "Acme"}, RequestId: requestID(),
	}
	must(change(func() error {
		answer, err := organizations.CreateOrganization(ctx, newOrganization)
		organizationID = answer.GetOrganization().GetOrganizationId()
		return err
	}))

	var created *accountsv1.Account
	newAccount := &accountsv1.CreateAccountRequest{
		Account: &accountsv1.Account{
			DisplayName:    "Acme Corporation",
			OrganizationId: organizationID,
			PrimaryContact: &accountsv1.Contact{Name: "Jane Doe", Email: "purchasing@acme.example"},
			BillingAddress: &accountsv1.Address{City: "Berlin"},
		},
		RequestId: requestID(),
	}
	must(change(func() error {
		answer, err := accounts.CreateAccount(ctx, newAccount)
		created = answer.GetAccount()
		return err
	}))
	fmt.Println("created", created.DisplayName)
	// Sent again with its request_id, the request gets the first answer and creates nothing.
	again, err := accounts.CreateAccount(ctx, newAccount)
	must(err)
	if again.Account.AccountId == created.AccountId {
		fmt.Println("repeated same")
	}

	read, err := accounts.GetAccount(ctx, &accountsv1.GetAccountRequest{AccountId: created.AccountId})
	must(err)
	fmt.Println("read", read.Account.BillingAddress.City)
	list, err := accounts.ListAccounts(ctx, &accountsv1.ListAccountsRequest{OrganizationId: organizationID})
	must(err)
	fmt.Println("listed", len(list.Accounts))

	update := &accountsv1.UpdateAccountRequest{
		Account: &accountsv1.Account{
			AccountId: created.AccountId, Etag: read.Account.Etag, BillingAddress: &accountsv1.Address{City: "Hamburg"},
		},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"billing_address.city"}},
		RequestId:  requestID(),
	}
	updated, err := accounts.UpdateAccount(ctx, update)
	must(err)
	fmt.Println("updated", updated.Account.BillingAddress.City)
	update.RequestId = requestID()
	_, err = accounts.UpdateAccount(ctx, update) // its etag is no longer the current one
	fmt.Println("refused", reason(err))

	person, err := people.CreatePerson(ctx, &accountsv1.CreatePersonRequest{
		Person: &accountsv1.Person{DisplayName: "Jane Doe"}, RequestId: requestID(),
	})
	must(err)
	member, err := memberships.AddAccountUser(ctx, &accountsv1.AddAccountUserRequest{
		AccountId: created.AccountId, PersonId: person.Person.PersonId,
		EndDate: &date.Date{Year: 2099, Month: 12, Day: 31}, RequestId: requestID(),
	})
	must(err)
	fmt.Println("member until", member.AccountUser.EndDate.Year)
}
