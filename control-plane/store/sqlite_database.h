// SPDX-License-Identifier: Apache-2.0
// A thin layer over SQLite: statements, transactions, migrations, and its errors as statuses.
#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "vmm/base/status.h"

namespace hearth::control {

// A prepared statement. Used on the thread that uses its database; gone before it.
class SqliteStatement {
 public:
  SqliteStatement& Bind(int64_t value);
  SqliteStatement& Bind(absl::string_view text);
  SqliteStatement& BindBlob(absl::string_view bytes);
  SqliteStatement& BindNull();

  // True: a row is there. False: done.
  absl::StatusOr<bool> Step();
  // Runs it to its end; rows are passed over.
  absl::Status Run();

  int64_t Int(int column) const { return sqlite3_column_int64(statement_.get(), column); }
  std::string Text(int column) const;  // Text or blob.
  bool IsNull(int column) const;

 private:
  friend class SqliteDatabase;
  struct Finalize {
    void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
  };
  SqliteStatement(sqlite3* database, sqlite3_stmt* statement)
      : database_(database), statement_(statement) {}
  void Keep(int code);

  sqlite3* database_;
  std::unique_ptr<sqlite3_stmt, Finalize> statement_;
  int next_ = 1;
  int bind_error_ = SQLITE_OK;
};

struct SqliteOptions {
  std::vector<const char*> migrations;  // In order, from version 1; never changed once released.
  int64_t max_pages = 0;                // A quota for tests of a full disk; 0 means none.
};

// One connection. Not thread-safe: the owner locks.
class SqliteDatabase {
 public:
  // Creates the file when it is absent and brings its schema up to date. WAL, foreign keys,
  // synchronous=FULL: a commit is on the disk when it answers. Its SQL has total_of(), a SUM() of
  // integers that stops at the largest instead of failing.
  static absl::StatusOr<std::unique_ptr<SqliteDatabase>> Open(const std::string& path,
                                                              const SqliteOptions& options);

  absl::StatusOr<SqliteStatement> Prepare(absl::string_view sql);
  absl::Status Execute(const char* sql);
  int64_t changes() const { return sqlite3_changes64(handle_.get()); }

 private:
  struct Close {
    void operator()(sqlite3* handle) const { sqlite3_close_v2(handle); }
  };
  explicit SqliteDatabase(sqlite3* handle) : handle_(handle) {}
  absl::Status Migrate(const SqliteOptions& options);

  std::unique_ptr<sqlite3, Close> handle_;
};

// Rolls back unless committed.
class SqliteTransaction {
 public:
  static absl::StatusOr<SqliteTransaction> Begin(SqliteDatabase& database, bool write);
  SqliteTransaction(SqliteTransaction&& other) noexcept
      : database_(std::exchange(other.database_, nullptr)) {}
  SqliteTransaction& operator=(SqliteTransaction&&) = delete;
  ~SqliteTransaction();
  absl::Status Commit();

 private:
  explicit SqliteTransaction(SqliteDatabase* database) : database_(database) {}
  SqliteDatabase* database_;
};

}  // namespace hearth::control
