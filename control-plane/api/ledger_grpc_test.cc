// SPDX-License-Identifier: Apache-2.0
// A disk that fills while an invocation runs: what cannot be recorded is not given out, and then
// not run.
#include <thread>

#include "control-plane/api/test_world.h"

namespace hearth::control {
namespace {

// A ledger on a disk that is full when a test says so.
class FillingLedger final : public Ledger {
 public:
  FillingLedger(std::unique_ptr<Ledger> ledger, const std::atomic<bool>* full)
      : ledger_(std::move(ledger)), full_(full) {}
  absl::Status Append(const hearth::v1::Invocation& invocation) override {
    return *full_ ? Full() : ledger_->Append(invocation);
  }
  absl::Status CheckWritable() override { return *full_ ? Full() : ledger_->CheckWritable(); }
  absl::StatusOr<hearth::v1::Invocation> Get(const std::string& name) override {
    return ledger_->Get(name);
  }
  absl::StatusOr<std::vector<hearth::v1::Invocation>> List(const std::string& function,
                                                           const std::string& before,
                                                           int limit) override {
    return ledger_->List(function, before, limit);
  }
  absl::StatusOr<std::vector<UsageSum>> Sum(const std::string& function, absl::Time start,
                                            absl::Time end) override {
    return ledger_->Sum(function, start, end);
  }

 private:
  static absl::Status Full() { return absl::ResourceExhaustedError("the fake disk is full"); }
  const std::unique_ptr<Ledger> ledger_;
  const std::atomic<bool>* const full_;
};

TEST_CASE("ledger: what cannot be recorded is withheld, then not run, until there is space again") {
  std::atomic<bool> full{false};
  World world([&](State* state) {
    state->ledger = std::make_unique<FillingLedger>(std::move(state->ledger), &full);
  });
  const std::string function = world.MakeFunction("f");
  world.Deploy(function, "gate.f");

  hearth::v1::InvokeResponse withheld;
  grpc::Status ended;
  std::thread client([&] { ended = world.Invoke(function, "secret", &withheld); });
  while (world.node->runs() == 0) std::this_thread::yield();
  full = true;
  world.node->Open();
  client.join();
  REQUIRE(ended.ok());
  CHECK(withheld.invocation().outcome() == hearth::v1::INSTANCE_LOST);
  CHECK(withheld.invocation().error().type() == "Hearth.UsageNotRecorded");
  CHECK(withheld.invocation().error().message().find("the fake disk is full") != std::string::npos);
  CHECK(withheld.payload().empty());
  CHECK_FALSE(withheld.invocation().usage().has_billed());

  hearth::v1::InvokeResponse response;
  const grpc::Status refused = world.Invoke(function, "x", &response);
  CHECK(refused.error_code() == grpc::StatusCode::UNAVAILABLE);
  CHECK(Reason(refused) == "LEDGER_UNAVAILABLE");
  google::rpc::RetryInfo retry;
  CHECK(Detailed(Details(refused), &retry));
  CHECK(world.node->runs() == 1);

  full = false;
  REQUIRE(world.Invoke(function, "x", &response).ok());
  CHECK(response.payload() == "x");
  const auto sums =
      world.state->ledger->Sum(function, absl::InfinitePast(), absl::InfiniteFuture());
  REQUIRE(sums.ok());
  REQUIRE(sums->size() == 1);
  CHECK(sums->front().usage.billed().invocations() == 1);
}

}  // namespace
}  // namespace hearth::control
