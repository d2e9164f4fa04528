// SPDX-License-Identifier: Apache-2.0
#include "control-plane/store/sqlite_database.h"

#include "vmm/base/saturating.h"

namespace hearth::control {
namespace {

absl::Status StatusOf(sqlite3* handle, int code) {
  const int extended = handle != nullptr ? sqlite3_extended_errcode(handle) : code;
  const std::string message = handle != nullptr ? sqlite3_errmsg(handle) : sqlite3_errstr(code);
  switch (extended) {
    case SQLITE_CONSTRAINT_PRIMARYKEY:
    case SQLITE_CONSTRAINT_UNIQUE:
      return absl::AlreadyExistsError(message);
    case SQLITE_CONSTRAINT_FOREIGNKEY:
      return absl::FailedPreconditionError(message);
    default:
      break;
  }
  switch (code & 0xff) {
    case SQLITE_FULL:
      return absl::ResourceExhaustedError(absl::StrCat(
          "the disk under the state directory is full (", message, "); free some space"));
    case SQLITE_BUSY:
    case SQLITE_IOERR:
      return absl::UnavailableError(absl::StrCat("the database cannot be used now: ", message));
    case SQLITE_CANTOPEN:
    case SQLITE_READONLY:
    case SQLITE_PERM:
      return absl::PermissionDeniedError(message);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::DataLossError(absl::StrCat("the database is damaged: ", message));
    default:
      return absl::InternalError(absl::StrCat("sqlite: ", message));
  }
}

// total_of(): a step and the end.
void AddToTotal(sqlite3_context* context, int count, sqlite3_value** values) {
  (void)count;
  auto* total = static_cast<int64_t*>(sqlite3_aggregate_context(context, sizeof(int64_t)));
  if (total == nullptr) return sqlite3_result_error_nomem(context);
  *total = SaturatingAdd(*total, sqlite3_value_int64(values[0]));
}

void GiveTotal(sqlite3_context* context) {
  const auto* total = static_cast<const int64_t*>(sqlite3_aggregate_context(context, 0));
  sqlite3_result_int64(context, total != nullptr ? *total : 0);
}

}  // namespace

void SqliteStatement::Keep(int code) {
  if (bind_error_ == SQLITE_OK) bind_error_ = code;
  ++next_;
}
SqliteStatement& SqliteStatement::Bind(int64_t value) {
  Keep(sqlite3_bind_int64(statement_.get(), next_, value));
  return *this;
}
SqliteStatement& SqliteStatement::Bind(absl::string_view text) {
  Keep(sqlite3_bind_text64(statement_.get(), next_, text.data() != nullptr ? text.data() : "",
                           text.size(), SQLITE_TRANSIENT, SQLITE_UTF8));
  return *this;
}
SqliteStatement& SqliteStatement::BindBlob(absl::string_view bytes) {
  Keep(sqlite3_bind_blob64(statement_.get(), next_, bytes.data() != nullptr ? bytes.data() : "",
                           bytes.size(), SQLITE_TRANSIENT));
  return *this;
}
SqliteStatement& SqliteStatement::BindNull() {
  Keep(sqlite3_bind_null(statement_.get(), next_));
  return *this;
}

absl::StatusOr<bool> SqliteStatement::Step() {
  if (bind_error_ != SQLITE_OK) return StatusOf(database_, bind_error_);
  const int code = sqlite3_step(statement_.get());
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  return StatusOf(database_, code);
}

absl::Status SqliteStatement::Run() {
  while (true) {
    ASSIGN_OR_RETURN(const bool row, Step());
    if (!row) return absl::OkStatus();
  }
}

std::string SqliteStatement::Text(int column) const {
  const void* data = sqlite3_column_blob(statement_.get(), column);
  const int size = sqlite3_column_bytes(statement_.get(), column);
  return data != nullptr ? std::string(static_cast<const char*>(data), size) : std::string();
}

bool SqliteStatement::IsNull(int column) const {
  return sqlite3_column_type(statement_.get(), column) == SQLITE_NULL;
}

absl::StatusOr<std::unique_ptr<SqliteDatabase>> SqliteDatabase::Open(const std::string& path,
                                                                     const SqliteOptions& options) {
  sqlite3* handle = nullptr;
  // The owner locks, so SQLite need not.
  const int code =
      sqlite3_open_v2(path.c_str(), &handle,
                      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr);
  std::unique_ptr<SqliteDatabase> database(new SqliteDatabase(handle));
  if (code != SQLITE_OK) return Annotate(StatusOf(handle, code), absl::StrCat("open ", path));
  sqlite3_extended_result_codes(handle, 1);
  sqlite3_busy_timeout(handle, 10'000);  // Another connection of ours; never another process.
  sqlite3_create_function_v2(handle, "total_of", 1, SQLITE_UTF8 | SQLITE_DETERMINISTIC, nullptr,
                             nullptr, AddToTotal, GiveTotal, nullptr);
  absl::Status status = database->Execute(
      "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;"
      "PRAGMA trusted_schema=OFF;");
  if (status.ok() && options.max_pages > 0) {
    status = database->Execute(absl::StrCat("PRAGMA max_page_count=", options.max_pages).c_str());
  }
  if (status.ok()) status = database->Migrate(options);
  if (!status.ok()) return Annotate(status, absl::StrCat("open ", path));
  return database;
}

absl::Status SqliteDatabase::Migrate(const SqliteOptions& options) {
  RETURN_IF_ERROR(
      Execute("CREATE TABLE IF NOT EXISTS schema_migrations ("
              "version INTEGER PRIMARY KEY, applied_ms INTEGER NOT NULL) STRICT"));
  int64_t current = 0;
  {
    ASSIGN_OR_RETURN(SqliteStatement select,
                     Prepare("SELECT COALESCE(MAX(version), 0) FROM schema_migrations"));
    RETURN_IF_ERROR(select.Step().status());
    current = select.Int(0);
  }
  const auto newest = static_cast<int64_t>(options.migrations.size());
  if (current > newest) {
    return absl::FailedPreconditionError(
        absl::StrCat("its schema is version ", current, ", this hearthd knows up to ", newest,
                     "; start a hearthd at least as new as the one that wrote it"));
  }
  for (int64_t version = current + 1; version <= newest; ++version) {
    ASSIGN_OR_RETURN(SqliteTransaction transaction, SqliteTransaction::Begin(*this, true));
    RETURN_IF_ERROR(Execute(options.migrations[version - 1]));
    ASSIGN_OR_RETURN(SqliteStatement insert,
                     Prepare("INSERT INTO schema_migrations VALUES (?, unixepoch() * 1000)"));
    RETURN_IF_ERROR(insert.Bind(version).Run());
    RETURN_IF_ERROR(transaction.Commit());
  }
  return absl::OkStatus();
}

absl::StatusOr<SqliteStatement> SqliteDatabase::Prepare(absl::string_view sql) {
  sqlite3_stmt* statement = nullptr;
  const int code = sqlite3_prepare_v2(handle_.get(), sql.data(), static_cast<int>(sql.size()),
                                      &statement, nullptr);
  if (code != SQLITE_OK) return StatusOf(handle_.get(), code);
  return SqliteStatement(handle_.get(), statement);
}

absl::Status SqliteDatabase::Execute(const char* sql) {
  const int code = sqlite3_exec(handle_.get(), sql, nullptr, nullptr, nullptr);
  return code == SQLITE_OK ? absl::OkStatus() : StatusOf(handle_.get(), code);
}

absl::StatusOr<SqliteTransaction> SqliteTransaction::Begin(SqliteDatabase& database, bool write) {
  RETURN_IF_ERROR(database.Execute(write ? "BEGIN IMMEDIATE" : "BEGIN"));
  return SqliteTransaction(&database);
}

SqliteTransaction::~SqliteTransaction() {
  // A failed statement may have rolled back already; then this fails, harmlessly.
  if (database_ != nullptr) database_->Execute("ROLLBACK").IgnoreError();
}

absl::Status SqliteTransaction::Commit() {
  RETURN_IF_ERROR(database_->Execute("COMMIT"));
  database_ = nullptr;
  return absl::OkStatus();
}

}  // namespace hearth::control
