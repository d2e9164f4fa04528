// SPDX-License-Identifier: Apache-2.0
// What every implementation of the three stores must do. A second one adds a row to Stores().
#include <stdlib.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <functional>
#include <limits>
#include <thread>

#include "control-plane/store/sqlite_stores.h"
#include "control-plane/store/uuid.h"

namespace hearth::control {
namespace {

struct Factory {
  std::string name;
  std::function<std::unique_ptr<MetadataStore>(const std::string& folder)> metadata;
  std::function<std::unique_ptr<InvocationQueue>(const std::string& folder)> queue;
  std::function<std::unique_ptr<Ledger>(const std::string& folder)> ledger;
};

template <class T>
T Must(absl::StatusOr<T> value) {
  INFO(value.status());
  REQUIRE(value.ok());
  return *std::move(value);
}

std::vector<Factory> Stores() {
  return {{"sqlite", [](const std::string& f) { return Must(OpenSqliteMetadata(f + "/m.db")); },
           [](const std::string& f) { return Must(OpenSqliteQueue(f + "/q.db")); },
           [](const std::string& f) { return Must(OpenSqliteLedger(f + "/l.db")); }}};
}

struct Folder {
  Folder() {
    char path[] = "/tmp/hearth-store-XXXXXX";
    REQUIRE(mkdtemp(path) != nullptr);
    name = path;
  }
  ~Folder() { std::filesystem::remove_all(name); }
  std::string name;
};

Record Make(const std::string& name, const std::string& parent, const std::string& body = "b",
            const std::string& reference = "") {
  return {name, parent, name, reference, body};
}

absl::Status Seed(MetadataTransaction& t) {
  for (const auto& [kind, record] : std::vector<std::pair<Kind, Record>>{
           {Kind::kTenant, Make("t/a", "")},
           {Kind::kFunction, Make("t/a/f", "t/a")},
           {Kind::kVersion, Make("t/a/f/v1", "t/a/f")},
           {Kind::kAlias, Make("t/a/f/live", "t/a/f", "b", "t/a/f/v1")}}) {
    absl::Status status = t.Insert(kind, record);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

hearth::v1::Invocation Ended(const std::string& function, const std::string& id, int64_t end_s,
                             int64_t cpu_ns) {
  hearth::v1::Invocation invocation;
  invocation.set_name(function + "/invocations/" + id);
  invocation.mutable_end_time()->set_seconds(end_s);
  invocation.set_outcome(hearth::v1::SUCCEEDED);
  invocation.set_start_kind(hearth::v1::WARM);
  invocation.mutable_usage()->mutable_host()->set_cpu_ns(cpu_ns);
  invocation.mutable_usage()->mutable_host()->set_memory_mib(128);
  invocation.mutable_usage()->mutable_billed()->set_invocations(1);
  return invocation;
}

}  // namespace

TEST_CASE("metadata: records keep their parents, references and bodies") {
  for (const Factory& factory : Stores()) {
    Folder folder;
    auto store = factory.metadata(folder.name);
    REQUIRE(store->Write(Seed).ok());
    CHECK(store
              ->Write([](auto& t) {
                CHECK(absl::IsAlreadyExists(t.Insert(Kind::kTenant, Make("t/a", ""))));
                CHECK(absl::IsFailedPrecondition(t.Insert(Kind::kFunction, Make("t/b/f", "t/b"))));
                CHECK(absl::IsFailedPrecondition(
                    t.Insert(Kind::kAlias, Make("t/a/f/x", "t/a/f", "b", "t/a/f/v9"))));
                CHECK(absl::IsNotFound(t.Update(Kind::kFunction, Make("t/a/g", "t/a"))));
                CHECK(absl::IsFailedPrecondition(t.Erase(Kind::kVersion, "t/a/f/v1")));
                CHECK(absl::IsFailedPrecondition(t.Erase(Kind::kFunction, "t/a/f")));
                CHECK(absl::IsFailedPrecondition(t.Erase(Kind::kTenant, "t/a")));
                CHECK(absl::IsNotFound(t.Erase(Kind::kTenant, "t/z")));
                return t.Update(Kind::kFunction, Make("t/a/f", "t/a", std::string("a\0b", 3)));
              })
              .ok());
    CHECK(store
              ->Read([](auto& t) {
                const Record record = Must(t.Get(Kind::kFunction, "t/a/f"));
                CHECK(record.body == std::string("a\0b", 3));
                CHECK(record.parent == "t/a");
                CHECK(Must(t.Get(Kind::kAlias, "t/a/f/live")).reference == "t/a/f/v1");
                CHECK(absl::IsNotFound(t.Get(Kind::kVersion, "t/a/f/v2").status()));
                return absl::OkStatus();
              })
              .ok());
    CHECK(store
              ->Write([](auto& t) {
                CHECK(t.EraseChildren(Kind::kAlias, "t/a/f").ok());
                CHECK(t.EraseChildren(Kind::kVersion, "t/a/f").ok());
                CHECK(t.Erase(Kind::kFunction, "t/a/f").ok());
                return t.Erase(Kind::kTenant, "t/a");
              })
              .ok());
  }
}

TEST_CASE("metadata: calls are counted and forgotten by function and by what is above it") {
  for (const Factory& factory : Stores()) {
    Folder folder;
    auto store = factory.metadata(folder.name);
    CHECK(store
              ->Write([](auto& t) {
                int64_t bytes = 1;
                for (const char* function : {"t/a", "t/a/f", "t/a/g", "t/a0", "t/a-", "t/b/f"}) {
                  CHECK(t.PutCall({function, "k", "d", "i", std::string(bytes, 'x')},
                                  absl::InfiniteFuture())
                            .ok());
                  bytes *= 10;
                }
                CHECK(Must(t.CallBytes("t/a")) == 111);
                CHECK(Must(t.CallBytes("t/a/f")) == 10);
                CHECK(t.EraseCalls("t/a/f").ok());
                CHECK(Must(t.CallBytes("t/a")) == 101);
                CHECK(t.EraseCalls("t/a").ok());
                CHECK(Must(t.CallBytes("t/a")) == 0);
                CHECK(Must(t.CallBytes("t")) == 111000);
                return absl::OkStatus();
              })
              .ok());
  }
}

TEST_CASE("metadata: the surplus of a parent is what lies before its last children") {
  for (const Factory& factory : Stores()) {
    Folder folder;
    auto store = factory.metadata(folder.name);
    REQUIRE(store->Write(Seed).ok());
    CHECK(store
              ->Write([](auto& t) {
                CHECK(t.Insert(Kind::kTenant, Make("t/b", "")).ok());
                CHECK(t.Insert(Kind::kOperation, Make("t/b/0", "t/b")).ok());
                for (const char* name : {"t/a/3", "t/a/1", "t/a/4", "t/a/2"}) {
                  CHECK(t.Insert(Kind::kOperation, Make(name, "t/a")).ok());
                }
                const auto names = [&](int kept, int limit) {
                  std::string all;
                  for (const Record& record :
                       Must(t.Surplus(Kind::kOperation, "t/a", kept, limit))) {
                    all += record.name + " ";
                  }
                  return all;
                };
                CHECK(names(2, 10) == "t/a/2 t/a/1 ");
                CHECK(names(1, 2) == "t/a/3 t/a/2 ");
                CHECK(names(4, 10).empty());
                return absl::OkStatus();
              })
              .ok());
  }
}

TEST_CASE("metadata: a body that fails leaves nothing behind") {
  for (const Factory& factory : Stores()) {
    Folder folder;
    auto store = factory.metadata(folder.name);
    CHECK(absl::IsAborted(store->Write([](auto& t) {
      CHECK(Seed(t).ok());
      return absl::AbortedError("changed my mind");
    })));
    CHECK(store
              ->Read([](auto& t) {
                CHECK(Must(t.All(Kind::kTenant)).empty());
                return absl::OkStatus();
              })
              .ok());
  }
}

TEST_CASE("metadata: listing pages in both directions without gaps or repeats") {
  for (const Factory& factory : Stores()) {
    Folder folder;
    auto store = factory.metadata(folder.name);
    REQUIRE(store
                ->Write([](auto& t) {
                  for (char c = 'a'; c <= 'e'; ++c) {
                    CHECK(t.Insert(Kind::kTenant, Make(std::string(1, c), "")).ok());
                  }
                  return absl::OkStatus();
                })
                .ok());
    for (const bool descending : {false, true}) {
      std::string seen, after;
      while (true) {
        std::vector<Record> page;
        REQUIRE(store
                    ->Read([&](auto& t) {
                      page = Must(t.List(Kind::kTenant, "", after, 2, descending));
                      return absl::OkStatus();
                    })
                    .ok());
        for (const Record& record : page) seen += record.name;
        if (page.size() < 2) break;
        after = page.back().sort_key;
      }
      CHECK(seen == (descending ? "edcba" : "abcde"));
    }
  }
}

TEST_CASE("metadata: numbers go up and are never given twice, by any thread") {
  for (const Factory& factory : Stores()) {
    Folder folder;
    auto store = factory.metadata(folder.name);
    std::vector<std::thread> threads;
    std::vector<std::vector<int64_t>> given(4);
    for (auto& mine : given) {
      threads.emplace_back([&] {
        for (int i = 0; i < 10; ++i) {
          store
              ->Write([&](auto& t) {
                mine.push_back(*t.NextNumber("f"));
                return absl::OkStatus();
              })
              .IgnoreError();
        }
      });
    }
    for (auto& thread : threads) thread.join();
    std::vector<int64_t> all;
    for (auto& mine : given) all.insert(all.end(), mine.begin(), mine.end());
    std::sort(all.begin(), all.end());
    for (int64_t i = 0; i < 40; ++i) CHECK(all[i] == i + 1);
  }
}

TEST_CASE("metadata: replays and idempotent calls are found until they expire") {
  for (const Factory& factory : Stores()) {
    Folder folder;
    auto store = factory.metadata(folder.name);
    const absl::Time t0 = absl::FromUnixSeconds(1000);
    CHECK(store
              ->Write([&](auto& t) {
                CHECK_FALSE(Must(t.FindReplay("k")).has_value());
                CHECK(t.PutReplay("k", {"digest", "answer"}, t0).ok());
                CHECK(Must(t.FindReplay("k"))->response == "answer");
                CHECK(t.PutCall({"f", "k", "d", "i", absl::nullopt}, t0).ok());
                CHECK(Must(t.OpenCalls()).size() == 1);
                CHECK(t.Expire(t0 + absl::Seconds(1)).ok());
                CHECK_FALSE(Must(t.FindReplay("k")).has_value());
                CHECK(Must(t.FindCall("f", "k"))->invocation == "i");  // Open: not yet to forget.
                CHECK(t.PutCall({"f", "k", "d", "i", std::string("resp")}, t0).ok());
                CHECK(Must(t.OpenCalls()).empty());
                CHECK(*Must(t.FindCall("f", "k"))->response == "resp");
                CHECK(Must(t.CallBytes("f")) == 4);
                CHECK(t.Expire(t0 + absl::Seconds(1)).ok());
                CHECK_FALSE(Must(t.FindCall("f", "k")).has_value());
                return absl::OkStatus();
              })
              .ok());
  }
}

TEST_CASE("queue: a claim excludes others until its lease ends, then its epoch is stale") {
  for (const Factory& factory : Stores()) {
    Folder folder;
    auto queue = factory.queue(folder.name);
    const absl::Time t0 = absl::FromUnixSeconds(1000);
    const absl::Duration s = absl::Seconds(1);
    REQUIRE(queue->Enqueue({"1", "f", "body", t0}).ok());
    CHECK(absl::IsAlreadyExists(queue->Enqueue({"1", "f", "body", t0})));
    CHECK(Must(queue->Claim("a", t0 - s, t0, 10)).empty());
    const auto first = Must(queue->Claim("a", t0, t0 + 10 * s, 10));
    REQUIRE(first.size() == 1);
    CHECK(first[0].epoch == 1);
    CHECK(first[0].item.body == "body");
    CHECK(Must(queue->Claim("b", t0 + 5 * s, t0 + 20 * s, 10)).empty());
    CHECK(queue->Extend(first[0], t0 + 12 * s).ok());
    CHECK(Must(queue->Claim("b", t0 + 11 * s, t0 + 20 * s, 10)).empty());
    const auto second = Must(queue->Claim("b", t0 + 12 * s, t0 + 20 * s, 10));
    REQUIRE(second.size() == 1);
    CHECK(second[0].epoch == 2);
    CHECK(absl::IsAborted(queue->Complete(first[0])));
    CHECK(absl::IsAborted(queue->Extend(first[0], t0 + 99 * s)));
    CHECK(absl::IsAborted(queue->Bury(first[0], "late")));
    CHECK(queue->Complete(second[0]).ok());
    CHECK(Must(queue->Depth()) == 0);
  }
}

TEST_CASE("queue: released items come back when due, buried ones become dead letters") {
  for (const Factory& factory : Stores()) {
    Folder folder;
    auto queue = factory.queue(folder.name);
    const absl::Time t0 = absl::FromUnixSeconds(1000);
    const absl::Duration s = absl::Seconds(1);
    REQUIRE(queue->Enqueue({"2", "f", "b", t0}).ok());
    REQUIRE(queue->Enqueue({"1", "f", "b", t0}).ok());
    auto claims = Must(queue->Claim("a", t0, t0 + 10 * s, 1));
    REQUIRE(claims.size() == 1);
    CHECK(claims[0].item.id == "1");  // The oldest first.
    CHECK(queue->Release(claims[0], t0 + 5 * s).ok());
    claims = Must(queue->Claim("a", t0 + 5 * s, t0 + 20 * s, 10));
    REQUIRE(claims.size() == 2);
    for (const auto& claim : claims) CHECK(queue->Bury(claim, "failed thrice").ok());
    CHECK(Must(queue->Depth()) == 0);
    const auto letters = Must(queue->DeadLetters("f", 10));
    REQUIRE(letters.size() == 2);
    CHECK(letters[0].item.id == "1");
    CHECK(letters[0].reason == "failed thrice");
    CHECK(Must(queue->DeadLetters("g", 10)).empty());
  }
}

TEST_CASE("ledger: each invocation counts once, however often it is written") {
  for (const Factory& factory : Stores()) {
    Folder folder;
    auto ledger = factory.ledger(folder.name);
    UuidGenerator uuids;
    const std::string f = "tenants/t/functions/f", g = "tenants/t/functions/g";
    const auto first = Ended(f, uuids.Next(), 100, 5);
    CHECK(ledger->Append(first).ok());
    auto again = first;
    again.mutable_usage()->mutable_host()->set_cpu_ns(500);
    CHECK(ledger->Append(again).ok());
    CHECK(Must(ledger->Get(first.name())).usage().host().cpu_ns() == 5);
    CHECK(ledger->Append(Ended(f, uuids.Next(), 200, 7)).ok());
    CHECK(ledger->Append(Ended(g, uuids.Next(), 200, 1)).ok());
    CHECK(ledger->Append(Ended("tenants/u/functions/f", uuids.Next(), 200, 1)).ok());
    CHECK(absl::IsNotFound(ledger->Get(f + "/invocations/none").status()));

    const auto sums =
        Must(ledger->Sum("tenants/t/functions/-", absl::InfinitePast(), absl::InfiniteFuture()));
    REQUIRE(sums.size() == 2);
    CHECK(sums[0].function == f);
    CHECK(sums[0].usage.host().cpu_ns() == 12);
    CHECK(sums[0].usage.host().memory_mib() == 128);
    CHECK(sums[0].usage.billed().invocations() == 2);
    CHECK(sums[0].outcomes.at("SUCCEEDED") == 2);
    CHECK(sums[0].start_kinds.at("WARM") == 2);
    const auto part = Must(ledger->Sum(f, absl::FromUnixSeconds(100), absl::FromUnixSeconds(200)));
    REQUIRE(part.size() == 1);
    CHECK(part[0].usage.host().cpu_ns() == 5);

    const auto page = Must(ledger->List("tenants/t/functions/-", "", 2));
    REQUIRE(page.size() == 2);
    const std::string last = page[1].name();
    const auto rest =
        Must(ledger->List("tenants/t/functions/-", last.substr(last.rfind('/') + 1), 2));
    REQUIRE(rest.size() == 1);
    CHECK(rest[0].name() == first.name());
  }
}

TEST_CASE("ledger: what guests claimed beyond all reason leaves the sums of all else right") {
  for (const Factory& factory : Stores()) {
    Folder folder;
    auto ledger = factory.ledger(folder.name);
    for (const char* id : {"0001", "0002", "0003"}) {
      auto ended = Ended("tenants/t/functions/f", id, 100, 5);
      auto* guest = ended.mutable_usage()->mutable_guest();
      guest->set_wall_ns(std::numeric_limits<int64_t>::max());
      guest->set_read_bytes(std::numeric_limits<int64_t>::max() / 2);
      // So that sums of sums are made, too.
      if (ended.name().back() == '3') ended.set_outcome(hearth::v1::TIMED_OUT);
      REQUIRE(ledger->Append(ended).ok());
    }
    const auto sums =
        Must(ledger->Sum("tenants/t/functions/-", absl::InfinitePast(), absl::InfiniteFuture()));
    REQUIRE(sums.size() == 1);
    CHECK(sums[0].usage.host().cpu_ns() == 15);
    CHECK(sums[0].usage.billed().invocations() == 3);
    CHECK(sums[0].usage.guest().wall_ns() == std::numeric_limits<int64_t>::max());
    CHECK(sums[0].usage.guest().read_bytes() == std::numeric_limits<int64_t>::max());
  }
}

TEST_CASE("ledger: many threads write at once and each record is there when its writer is told") {
  for (const Factory& factory : Stores()) {
    Folder folder;
    auto ledger = factory.ledger(folder.name);
    UuidGenerator uuids;
    std::vector<std::thread> threads;
    std::atomic<int> wrong{0};
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back([&] {
        for (int j = 0; j < 25; ++j) {
          const auto ended = Ended("tenants/t/functions/f", uuids.Next(), 100, 1);
          if (!ledger->Append(ended).ok() || !ledger->Get(ended.name()).ok()) ++wrong;
        }
      });
    }
    for (auto& thread : threads) thread.join();
    CHECK(wrong == 0);
    const auto sums =
        Must(ledger->Sum("tenants/t/functions/f", absl::InfinitePast(), absl::InfiniteFuture()));
    REQUIRE(sums.size() == 1);
    CHECK(sums[0].usage.host().cpu_ns() == 200);
  }
}

}  // namespace hearth::control
