// SPDX-License-Identifier: Apache-2.0
// What is SQLite's own: crashes, full disks, damaged files and schema versions.
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <thread>

#include "control-plane/store/sqlite_database.h"
#include "control-plane/store/sqlite_stores.h"

namespace hearth::control {
namespace {

struct Folder {
  Folder() {
    char path[] = "/tmp/hearth-sqlite-XXXXXX";
    REQUIRE(mkdtemp(path) != nullptr);
    name = path;
  }
  ~Folder() { std::filesystem::remove_all(name); }
  std::string name;
};

hearth::v1::Invocation Ended(int number) {
  hearth::v1::Invocation invocation;
  invocation.set_name("tenants/t/functions/f/invocations/" + std::to_string(number));
  invocation.set_outcome(hearth::v1::SUCCEEDED);
  invocation.mutable_usage()->mutable_billed()->set_invocations(1);
  return invocation;
}

// Of a write-ahead log, https://www.sqlite.org/fileformat2.html#walformat: a frame that ends a
// transaction says how many pages the database has then.
size_t CommitsIn(const std::string& wal) {
  constexpr size_t kHeader = 32, kFrameHeader = 24;
  std::ifstream file(wal, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), {});
  const auto number = [&](size_t at) {
    uint32_t value = 0;
    for (size_t i = at; i < at + 4; ++i) value = value << 8 | static_cast<uint8_t>(bytes[i]);
    return value;
  };
  if (bytes.size() < kHeader) return 0;
  const size_t frame = kFrameHeader + number(8);
  size_t commits = 0;
  for (size_t at = kHeader; at + frame <= bytes.size(); at += frame) {
    if (number(at + 4) != 0) ++commits;
  }
  return commits;
}

// In a child: writes records until killed, and reports each number over `fd` after the store said
// that it is kept.
[[noreturn]] void WriteForever(const std::string& folder, int fd) {
  auto ledger = OpenSqliteLedger(folder + "/l.db");
  auto metadata = OpenSqliteMetadata(folder + "/m.db");
  if (!ledger.ok() || !metadata.ok()) _exit(1);
  for (int i = 0;; ++i) {
    const std::string name = "t" + std::to_string(i);
    // Two records in one transaction: both or none must survive.
    const absl::Status wrote = (*metadata)->Write([&](MetadataTransaction& t) {
      absl::Status status = t.Insert(Kind::kTenant, {name, "", name, "", "x"});
      if (!status.ok()) return status;
      return t.Insert(Kind::kFunction, {name + "/f", name, "f", "", "x"});
    });
    if (!wrote.ok() || !(*ledger)->Append(Ended(i)).ok()) _exit(1);
    if (write(fd, &i, sizeof(i)) != sizeof(i)) _exit(1);
  }
}

}  // namespace

TEST_CASE("sqlite: usage records that wait together are behind one sync") {
  constexpr int kRecords = 64;
  Folder folder;
  auto ledger = OpenSqliteLedger(folder.name + "/l.db");
  REQUIRE(ledger.ok());
  const size_t before = CommitsIn(folder.name + "/l.db-wal");
  {
    // Who has the database open for writing keeps the ledger waiting for it.
    auto other = SqliteDatabase::Open(folder.name + "/l.db", {{""}, 0});
    REQUIRE(other.ok());
    auto transaction = SqliteTransaction::Begin(**other, true);
    REQUIRE(transaction.ok());
    std::atomic<int> started{0}, failed{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < kRecords; ++i) {
      threads.emplace_back([&, i] {
        ++started;
        if (!(*ledger)->Append(Ended(i)).ok()) ++failed;
      });
    }
    while (started < kRecords) std::this_thread::yield();
    { const SqliteTransaction ended = *std::move(transaction); }
    for (auto& thread : threads) thread.join();
    CHECK(failed == 0);
  }
  const size_t commits = CommitsIn(folder.name + "/l.db-wal") - before;
  CHECK(commits >= 1);
  CHECK(commits < kRecords / 2);
}

TEST_CASE("sqlite: killed while writing, it opens again with all that was acknowledged") {
  Folder folder;
  int acknowledged = -1;
  for (int round = 0; round < 3; ++round) {
    const std::string place = folder.name + "/" + std::to_string(round);
    std::filesystem::create_directory(place);
    int fds[2];
    REQUIRE(pipe(fds) == 0);
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) WriteForever(place, fds[1]);
    close(fds[1]);
    acknowledged = -1;
    while (acknowledged < 5 + round * 7) {
      REQUIRE(read(fds[0], &acknowledged, sizeof(acknowledged)) == sizeof(acknowledged));
    }
    kill(child, SIGKILL);
    int number = 0;
    while (read(fds[0], &number, sizeof(number)) == sizeof(number)) acknowledged = number;
    close(fds[0]);
    REQUIRE(waitpid(child, nullptr, 0) == child);

    auto ledger = OpenSqliteLedger(place + "/l.db");
    REQUIRE(ledger.ok());
    for (int i = 0; i <= acknowledged; ++i) CHECK((*ledger)->Get(Ended(i).name()).ok());
    auto metadata = OpenSqliteMetadata(place + "/m.db");
    REQUIRE(metadata.ok());
    CHECK((*metadata)
              ->Read([&](MetadataTransaction& t) {
                const auto tenants = t.All(Kind::kTenant);
                const auto functions = t.All(Kind::kFunction);
                REQUIRE(tenants.ok());
                REQUIRE(functions.ok());
                CHECK(static_cast<int>(tenants->size()) > acknowledged);
                CHECK(tenants->size() == functions->size());
                return absl::OkStatus();
              })
              .ok());
  }
}

TEST_CASE("sqlite: a full disk is RESOURCE_EXHAUSTED, and what was there stays") {
  Folder folder;
  auto metadata = OpenSqliteMetadata(folder.name + "/m.db", 64);
  REQUIRE(metadata.ok());
  const std::string big(16 * 1024, 'x');
  absl::Status status;
  int kept = 0;
  for (int i = 0; i < 100; ++i) {
    const std::string name = "t" + std::to_string(i);
    status = (*metadata)->Write([&](MetadataTransaction& t) {
      return t.Insert(Kind::kTenant, {name, "", name, "", big});
    });
    if (!status.ok()) break;
    ++kept;
  }
  CHECK(absl::IsResourceExhausted(status));
  CHECK(status.message().find("full") != absl::string_view::npos);
  CHECK(kept > 0);
  CHECK((*metadata)
            ->Read([&](MetadataTransaction& t) {
              CHECK(static_cast<int>(t.All(Kind::kTenant)->size()) == kept);
              return absl::OkStatus();
            })
            .ok());
}

TEST_CASE("sqlite: a ledger that cannot write says so before the next invocation starts") {
  Folder folder;
  auto ledger = OpenSqliteLedger(folder.name + "/l.db", 24);
  REQUIRE(ledger.ok());
  CHECK((*ledger)->CheckWritable().ok());
  absl::Status status;
  for (int i = 0; i < 1000 && status.ok(); ++i) {
    hearth::v1::Invocation invocation = Ended(i);
    invocation.mutable_error()->set_message(std::string(8192, 'x'));
    status = (*ledger)->Append(invocation);
  }
  CHECK(absl::IsResourceExhausted(status));
}

TEST_CASE("sqlite: a file that is no database, and a newer schema, are refused with the reason") {
  Folder folder;
  std::ofstream(folder.name + "/m.db") << std::string(8192, 'z');
  const auto damaged = OpenSqliteMetadata(folder.name + "/m.db");
  CHECK(absl::IsDataLoss(damaged.status()));

  const SqliteOptions two{{"CREATE TABLE a (x INTEGER)", "CREATE TABLE b (x INTEGER)"}, 0};
  const SqliteOptions one{{"CREATE TABLE a (x INTEGER)"}, 0};
  REQUIRE(SqliteDatabase::Open(folder.name + "/x.db", one).ok());
  REQUIRE(SqliteDatabase::Open(folder.name + "/x.db", two).ok());  // Migrates.
  const auto older = SqliteDatabase::Open(folder.name + "/x.db", one);
  CHECK(absl::IsFailedPrecondition(older.status()));
  CHECK(older.status().message().find("version 2") != absl::string_view::npos);
}

}  // namespace hearth::control
