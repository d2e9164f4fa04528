// SPDX-License-Identifier: Apache-2.0
#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "control-plane/store/sqlite_database.h"
#include "control-plane/store/sqlite_stores.h"

namespace hearth::control {
namespace {

// sort_key is unique below a parent, so that pages neither skip nor repeat a record.
constexpr char kMetadataSchema1[] = R"sql(
CREATE TABLE tenants (
  name TEXT PRIMARY KEY, parent TEXT NOT NULL, sort_key TEXT NOT NULL, reference TEXT,
  body BLOB NOT NULL) STRICT;
CREATE TABLE functions (
  name TEXT PRIMARY KEY, parent TEXT NOT NULL REFERENCES tenants(name), sort_key TEXT NOT NULL,
  reference TEXT, body BLOB NOT NULL) STRICT;
CREATE TABLE versions (
  name TEXT PRIMARY KEY, parent TEXT NOT NULL REFERENCES functions(name), sort_key TEXT NOT NULL,
  reference TEXT, body BLOB NOT NULL) STRICT;
CREATE TABLE aliases (
  name TEXT PRIMARY KEY, parent TEXT NOT NULL REFERENCES functions(name), sort_key TEXT NOT NULL,
  reference TEXT NOT NULL REFERENCES versions(name), body BLOB NOT NULL) STRICT;
CREATE TABLE artifacts (
  name TEXT PRIMARY KEY, parent TEXT NOT NULL REFERENCES tenants(name) ON DELETE CASCADE,
  sort_key TEXT NOT NULL, reference TEXT, body BLOB NOT NULL) STRICT;
CREATE TABLE operations (
  name TEXT PRIMARY KEY, parent TEXT NOT NULL REFERENCES tenants(name), sort_key TEXT NOT NULL,
  reference TEXT, body BLOB NOT NULL) STRICT;
CREATE UNIQUE INDEX tenants_order ON tenants(parent, sort_key);
CREATE UNIQUE INDEX functions_order ON functions(parent, sort_key);
CREATE UNIQUE INDEX versions_order ON versions(parent, sort_key);
CREATE UNIQUE INDEX aliases_order ON aliases(parent, sort_key);
CREATE INDEX aliases_reference ON aliases(reference);
CREATE UNIQUE INDEX artifacts_order ON artifacts(parent, sort_key);
CREATE UNIQUE INDEX operations_order ON operations(parent, sort_key);
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
CREATE TABLE replays (
  key TEXT PRIMARY KEY, request_digest TEXT NOT NULL, response BLOB NOT NULL,
  expiry_ms INTEGER NOT NULL) STRICT;
CREATE INDEX replays_expiry ON replays(expiry_ms);
CREATE TABLE calls (
  function TEXT NOT NULL, key TEXT NOT NULL, request_digest TEXT NOT NULL,
  invocation TEXT NOT NULL, response BLOB, response_bytes INTEGER NOT NULL,
  expiry_ms INTEGER NOT NULL, PRIMARY KEY (function, key)) STRICT;
CREATE INDEX calls_expiry ON calls(expiry_ms);
CREATE INDEX calls_bytes ON calls(response_bytes);
)sql";

// Responses are summed by tenant; without the response itself in the way.
constexpr char kMetadataSchema2[] = R"sql(
DROP INDEX calls_bytes;
CREATE INDEX calls_function_bytes ON calls(function, response_bytes);
)sql";

const char* Table(Kind kind) {
  switch (kind) {
    case Kind::kTenant:
      return "tenants";
    case Kind::kFunction:
      return "functions";
    case Kind::kVersion:
      return "versions";
    case Kind::kAlias:
      return "aliases";
    case Kind::kArtifact:
      return "artifacts";
    case Kind::kOperation:
      return "operations";
  }
  return "";
}

Record RecordFrom(const SqliteStatement& row) {
  return {row.Text(0), row.Text(1), row.Text(2), row.Text(3), row.Text(4)};
}
constexpr char kColumns[] = "SELECT name, parent, sort_key, reference, body FROM ";

void BindReference(SqliteStatement& statement, const Record& record) {
  if (record.reference.empty()) {
    statement.BindNull();
  } else {
    statement.Bind(record.reference);
  }
}

class SqliteMetadataTransaction final : public MetadataTransaction {
 public:
  explicit SqliteMetadataTransaction(SqliteDatabase& database) : database_(database) {}

  absl::Status Insert(Kind kind, const Record& record) override {
    ASSIGN_OR_RETURN(auto insert, database_.Prepare(absl::StrCat("INSERT INTO ", Table(kind),
                                                                 " VALUES (?, ?, ?, ?, ?)")));
    insert.Bind(record.name).Bind(record.parent).Bind(record.sort_key);
    BindReference(insert, record);
    return insert.BindBlob(record.body).Run();
  }

  absl::Status Update(Kind kind, const Record& record) override {
    ASSIGN_OR_RETURN(auto update,
                     database_.Prepare(absl::StrCat(
                         "UPDATE ", Table(kind), " SET reference = ?, body = ? WHERE name = ?")));
    BindReference(update, record);
    RETURN_IF_ERROR(update.BindBlob(record.body).Bind(record.name).Run());
    return MustHaveChanged(record.name);
  }

  absl::Status Erase(Kind kind, const std::string& name) override {
    ASSIGN_OR_RETURN(auto erase, database_.Prepare(
                                     absl::StrCat("DELETE FROM ", Table(kind), " WHERE name = ?")));
    RETURN_IF_ERROR(erase.Bind(name).Run());
    return MustHaveChanged(name);
  }

  absl::Status EraseChildren(Kind kind, const std::string& parent) override {
    ASSIGN_OR_RETURN(auto erase, database_.Prepare(absl::StrCat("DELETE FROM ", Table(kind),
                                                                " WHERE parent = ?")));
    return erase.Bind(parent).Run();
  }

  absl::StatusOr<Record> Get(Kind kind, const std::string& name) override {
    ASSIGN_OR_RETURN(auto select,
                     database_.Prepare(absl::StrCat(kColumns, Table(kind), " WHERE name = ?")));
    ASSIGN_OR_RETURN(const bool found, select.Bind(name).Step());
    if (!found) return absl::NotFoundError(absl::StrCat(name, " does not exist"));
    return RecordFrom(select);
  }

  absl::StatusOr<std::vector<Record>> List(Kind kind, const std::string& parent,
                                           const std::string& after, int limit,
                                           bool descending) override {
    std::string sql = absl::StrCat(kColumns, Table(kind), " WHERE parent = ?");
    if (!after.empty()) absl::StrAppend(&sql, " AND sort_key ", descending ? "<" : ">", " ?");
    absl::StrAppend(&sql, " ORDER BY sort_key ", descending ? "DESC" : "ASC", " LIMIT ?");
    ASSIGN_OR_RETURN(auto select, database_.Prepare(sql));
    select.Bind(parent);
    if (!after.empty()) select.Bind(after);
    return Collect(select.Bind(int64_t{limit}));
  }

  absl::StatusOr<std::vector<Record>> Surplus(Kind kind, const std::string& parent, int kept,
                                              int limit) override {
    ASSIGN_OR_RETURN(
        auto select,
        database_.Prepare(absl::StrCat(
            kColumns, Table(kind), " WHERE parent = ? ORDER BY sort_key DESC LIMIT ? OFFSET ?")));
    return Collect(select.Bind(parent).Bind(int64_t{limit}).Bind(int64_t{kept}));
  }

  absl::StatusOr<std::vector<Record>> All(Kind kind) override {
    ASSIGN_OR_RETURN(auto select,
                     database_.Prepare(absl::StrCat(kColumns, Table(kind), " ORDER BY name")));
    return Collect(select);
  }

  absl::StatusOr<int64_t> NextNumber(const std::string& counter) override {
    ASSIGN_OR_RETURN(auto next,
                     database_.Prepare("INSERT INTO counters VALUES (?, 1) ON CONFLICT(name) "
                                       "DO UPDATE SET value = value + 1 RETURNING value"));
    RETURN_IF_ERROR(next.Bind(counter).Step().status());
    const int64_t value = next.Int(0);
    RETURN_IF_ERROR(next.Run());
    return value;
  }

  absl::StatusOr<absl::optional<Replay>> FindReplay(const std::string& key) override {
    ASSIGN_OR_RETURN(
        auto select,
        database_.Prepare("SELECT request_digest, response FROM replays WHERE key = ?"));
    ASSIGN_OR_RETURN(const bool found, select.Bind(key).Step());
    if (!found) return absl::optional<Replay>();
    return absl::optional<Replay>(Replay{select.Text(0), select.Text(1)});
  }

  absl::Status PutReplay(const std::string& key, const Replay& replay, absl::Time expiry) override {
    ASSIGN_OR_RETURN(auto put,
                     database_.Prepare("INSERT OR REPLACE INTO replays VALUES (?,?,?,?)"));
    return put.Bind(key)
        .Bind(replay.request_digest)
        .BindBlob(replay.response)
        .Bind(absl::ToUnixMillis(expiry))
        .Run();
  }

  absl::StatusOr<absl::optional<IdempotentCall>> FindCall(const std::string& function,
                                                          const std::string& key) override {
    ASSIGN_OR_RETURN(auto select, database_.Prepare(absl::StrCat(
                                      kCallColumns, " WHERE function = ? AND key = ?")));
    ASSIGN_OR_RETURN(const bool found, select.Bind(function).Bind(key).Step());
    if (!found) return absl::optional<IdempotentCall>();
    return absl::optional<IdempotentCall>(CallFrom(select));
  }

  absl::Status PutCall(const IdempotentCall& call, absl::Time expiry) override {
    ASSIGN_OR_RETURN(auto put,
                     database_.Prepare("INSERT OR REPLACE INTO calls VALUES (?,?,?,?,?,?,?)"));
    put.Bind(call.function).Bind(call.key).Bind(call.request_digest).Bind(call.invocation);
    if (call.response.has_value()) {
      put.BindBlob(*call.response).Bind(static_cast<int64_t>(call.response->size()));
    } else {
      put.BindNull().Bind(int64_t{0});
    }
    return put.Bind(absl::ToUnixMillis(expiry)).Run();
  }

  absl::Status EraseCall(const std::string& function, const std::string& key) override {
    ASSIGN_OR_RETURN(auto erase,
                     database_.Prepare("DELETE FROM calls WHERE function = ? AND key = ?"));
    return erase.Bind(function).Bind(key).Run();
  }

  absl::StatusOr<std::vector<IdempotentCall>> OpenCalls() override {
    ASSIGN_OR_RETURN(auto select,
                     database_.Prepare(absl::StrCat(kCallColumns, " WHERE response IS NULL")));
    std::vector<IdempotentCall> calls;
    while (true) {
      ASSIGN_OR_RETURN(const bool row, select.Step());
      if (!row) return calls;
      calls.push_back(CallFrom(select));
    }
  }

  absl::Status EraseCalls(const std::string& parent) override {
    ASSIGN_OR_RETURN(auto erase, database_.Prepare(absl::StrCat("DELETE FROM calls", kAtOrBelow)));
    return BindBelow(erase, parent).Run();
  }

  absl::StatusOr<int64_t> CallBytes(const std::string& parent) override {
    ASSIGN_OR_RETURN(auto select,
                     database_.Prepare(absl::StrCat(
                         "SELECT COALESCE(SUM(response_bytes), 0) FROM calls", kAtOrBelow)));
    RETURN_IF_ERROR(BindBelow(select, parent).Step().status());
    return select.Int(0);
  }

  absl::Status Expire(absl::Time now) override {
    for (const char* sql : {"DELETE FROM replays WHERE expiry_ms < ?",
                            "DELETE FROM calls WHERE expiry_ms < ? AND response IS NOT NULL"}) {
      ASSIGN_OR_RETURN(auto erase, database_.Prepare(sql));
      RETURN_IF_ERROR(erase.Bind(absl::ToUnixMillis(now)).Run());
    }
    return absl::OkStatus();
  }

 private:
  static constexpr char kCallColumns[] =
      "SELECT function, key, request_digest, invocation, response FROM calls";

  // '0' is what comes behind '/'.
  static constexpr char kAtOrBelow[] = " WHERE function = ? OR (function > ? AND function < ?)";

  static SqliteStatement& BindBelow(SqliteStatement& statement, const std::string& parent) {
    return statement.Bind(parent).Bind(absl::StrCat(parent, "/")).Bind(absl::StrCat(parent, "0"));
  }

  static IdempotentCall CallFrom(const SqliteStatement& row) {
    IdempotentCall call{row.Text(0), row.Text(1), row.Text(2), row.Text(3), absl::nullopt};
    if (!row.IsNull(4)) call.response = row.Text(4);
    return call;
  }

  absl::Status MustHaveChanged(const std::string& name) {
    if (database_.changes() > 0) return absl::OkStatus();
    return absl::NotFoundError(absl::StrCat(name, " does not exist"));
  }

  static absl::StatusOr<std::vector<Record>> Collect(SqliteStatement& select) {
    std::vector<Record> records;
    while (true) {
      ASSIGN_OR_RETURN(const bool row, select.Step());
      if (!row) return records;
      records.push_back(RecordFrom(select));
    }
  }

  SqliteDatabase& database_;
};

class SqliteMetadata final : public MetadataStore {
 public:
  explicit SqliteMetadata(std::unique_ptr<SqliteDatabase> database)
      : database_(std::move(database)) {}

  absl::Status Write(Body body) override { return RunBody(body, true); }
  absl::Status Read(Body body) override { return RunBody(body, false); }

 private:
  absl::Status RunBody(Body body, bool write) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    ASSIGN_OR_RETURN(auto transaction, SqliteTransaction::Begin(*database_, write));
    SqliteMetadataTransaction view(*database_);
    RETURN_IF_ERROR(body(view));
    return transaction.Commit();
  }

  absl::Mutex mutex_;
  const std::unique_ptr<SqliteDatabase> database_ ABSL_PT_GUARDED_BY(mutex_);
};

}  // namespace

absl::StatusOr<std::unique_ptr<MetadataStore>> OpenSqliteMetadata(const std::string& path,
                                                                  int64_t max_pages) {
  ASSIGN_OR_RETURN(auto database,
                   SqliteDatabase::Open(path, {{kMetadataSchema1, kMetadataSchema2}, max_pages}));
  return std::make_unique<SqliteMetadata>(std::move(database));
}

}  // namespace hearth::control
