// SPDX-License-Identifier: Apache-2.0
#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "control-plane/store/sqlite_database.h"
#include "control-plane/store/sqlite_stores.h"

namespace hearth::control {
namespace {

constexpr char kQueueSchema1[] = R"sql(
CREATE TABLE items (
  id TEXT PRIMARY KEY, function TEXT NOT NULL, body BLOB NOT NULL, not_before_ms INTEGER NOT NULL,
  owner TEXT NOT NULL DEFAULT '', epoch INTEGER NOT NULL DEFAULT 0,
  lease_end_ms INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE INDEX items_due ON items(not_before_ms, id);
CREATE TABLE dead_letters (
  id TEXT PRIMARY KEY, function TEXT NOT NULL, body BLOB NOT NULL, not_before_ms INTEGER NOT NULL,
  reason TEXT NOT NULL) STRICT;
CREATE INDEX dead_letters_order ON dead_letters(function, id);
)sql";

class SqliteQueue final : public InvocationQueue {
 public:
  explicit SqliteQueue(std::unique_ptr<SqliteDatabase> database) : database_(std::move(database)) {}

  absl::Status Enqueue(const QueuedInvocation& item) override {
    absl::MutexLock lock(&mutex_);
    ASSIGN_OR_RETURN(auto insert,
                     database_->Prepare("INSERT INTO items (id, function, body, not_before_ms) "
                                        "VALUES (?, ?, ?, ?)"));
    return insert.Bind(item.id)
        .Bind(item.function)
        .BindBlob(item.body)
        .Bind(absl::ToUnixMillis(item.not_before))
        .Run();
  }

  absl::StatusOr<std::vector<QueueClaim>> Claim(const std::string& owner, absl::Time now,
                                                absl::Time lease_end, int limit) override {
    absl::MutexLock lock(&mutex_);
    ASSIGN_OR_RETURN(auto transaction, SqliteTransaction::Begin(*database_, true));
    ASSIGN_OR_RETURN(
        auto claim,
        database_->Prepare(
            "UPDATE items SET owner = ?, epoch = epoch + 1, lease_end_ms = ? WHERE id IN ("
            "SELECT id FROM items WHERE not_before_ms <= ? AND lease_end_ms <= ? "
            "ORDER BY not_before_ms, id LIMIT ?) "
            "RETURNING id, function, body, not_before_ms, epoch"));
    const int64_t now_ms = absl::ToUnixMillis(now);
    claim.Bind(owner).Bind(absl::ToUnixMillis(lease_end)).Bind(now_ms).Bind(now_ms);
    claim.Bind(int64_t{limit});
    std::vector<QueueClaim> claims;
    while (true) {
      ASSIGN_OR_RETURN(const bool row, claim.Step());
      if (!row) break;
      claims.push_back(
          {{claim.Text(0), claim.Text(1), claim.Text(2), absl::FromUnixMillis(claim.Int(3))},
           owner,
           claim.Int(4)});
    }
    RETURN_IF_ERROR(transaction.Commit());
    return claims;
  }

  absl::Status Extend(const QueueClaim& claim, absl::Time lease_end) override {
    return Act("UPDATE items SET lease_end_ms = ? WHERE id = ? AND owner = ? AND epoch = ?",
               lease_end, claim);
  }

  absl::Status Complete(const QueueClaim& claim) override {
    return Act("DELETE FROM items WHERE ? IS NOT NULL AND id = ? AND owner = ? AND epoch = ?",
               absl::UnixEpoch(), claim);
  }

  absl::Status Release(const QueueClaim& claim, absl::Time not_before) override {
    return Act(
        "UPDATE items SET not_before_ms = ?, lease_end_ms = 0, owner = '' "
        "WHERE id = ? AND owner = ? AND epoch = ?",
        not_before, claim);
  }

  absl::Status Bury(const QueueClaim& claim, const std::string& reason) override {
    absl::MutexLock lock(&mutex_);
    ASSIGN_OR_RETURN(auto transaction, SqliteTransaction::Begin(*database_, true));
    ASSIGN_OR_RETURN(auto copy,
                     database_->Prepare("INSERT INTO dead_letters SELECT id, function, body, "
                                        "not_before_ms, ? FROM items "
                                        "WHERE id = ? AND owner = ? AND epoch = ?"));
    RETURN_IF_ERROR(
        copy.Bind(reason).Bind(claim.item.id).Bind(claim.owner).Bind(claim.epoch).Run());
    RETURN_IF_ERROR(MustHaveChanged(claim));
    ASSIGN_OR_RETURN(auto erase, database_->Prepare("DELETE FROM items WHERE id = ?"));
    RETURN_IF_ERROR(erase.Bind(claim.item.id).Run());
    return transaction.Commit();
  }

  absl::StatusOr<std::vector<DeadLetter>> DeadLetters(const std::string& function,
                                                      int limit) override {
    absl::MutexLock lock(&mutex_);
    ASSIGN_OR_RETURN(auto select, database_->Prepare(
                                      "SELECT id, function, body, not_before_ms, reason "
                                      "FROM dead_letters WHERE function = ? ORDER BY id LIMIT ?"));
    select.Bind(function).Bind(int64_t{limit});
    std::vector<DeadLetter> letters;
    while (true) {
      ASSIGN_OR_RETURN(const bool row, select.Step());
      if (!row) return letters;
      letters.push_back(
          {{select.Text(0), select.Text(1), select.Text(2), absl::FromUnixMillis(select.Int(3))},
           select.Text(4)});
    }
  }

  absl::StatusOr<int64_t> Depth() override {
    absl::MutexLock lock(&mutex_);
    ASSIGN_OR_RETURN(auto select, database_->Prepare("SELECT COUNT(*) FROM items"));
    RETURN_IF_ERROR(select.Step().status());
    return select.Int(0);
  }

 private:
  absl::Status Act(const char* sql, absl::Time time, const QueueClaim& claim)
      ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    ASSIGN_OR_RETURN(auto act, database_->Prepare(sql));
    RETURN_IF_ERROR(act.Bind(absl::ToUnixMillis(time))
                        .Bind(claim.item.id)
                        .Bind(claim.owner)
                        .Bind(claim.epoch)
                        .Run());
    return MustHaveChanged(claim);
  }

  absl::Status MustHaveChanged(const QueueClaim& claim) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (database_->changes() > 0) return absl::OkStatus();
    return absl::AbortedError(absl::StrCat("the claim of ", claim.item.id, " by ", claim.owner,
                                           " (epoch ", claim.epoch, ") is no longer held"));
  }

  absl::Mutex mutex_;
  const std::unique_ptr<SqliteDatabase> database_ ABSL_PT_GUARDED_BY(mutex_);
};

}  // namespace

absl::StatusOr<std::unique_ptr<InvocationQueue>> OpenSqliteQueue(const std::string& path,
                                                                 int64_t max_pages) {
  ASSIGN_OR_RETURN(auto database, SqliteDatabase::Open(path, {{kQueueSchema1}, max_pages}));
  return std::make_unique<SqliteQueue>(std::move(database));
}

}  // namespace hearth::control
