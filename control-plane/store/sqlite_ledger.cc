// SPDX-License-Identifier: Apache-2.0
// Group sync: a writer thread takes every record that waits, writes them in one transaction and
// answers them all after its one fsync. Readers have a connection of their own.
#include <deque>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "control-plane/limits.h"
#include "control-plane/metering/billing.h"
#include "control-plane/store/sqlite_database.h"
#include "control-plane/store/sqlite_stores.h"

namespace hearth::control {
namespace {

using hearth::v1::Invocation;

constexpr char kLedgerSchema1[] = R"sql(
CREATE TABLE usage (
  name TEXT PRIMARY KEY, tenant TEXT NOT NULL, function TEXT NOT NULL, id TEXT NOT NULL,
  end_ms INTEGER NOT NULL, outcome INTEGER NOT NULL, start_kind INTEGER NOT NULL,
  wall_ns INTEGER NOT NULL, cpu_ns INTEGER NOT NULL, memory_mib INTEGER NOT NULL,
  request_bytes INTEGER NOT NULL, response_bytes INTEGER NOT NULL, boot_cpu_ns INTEGER NOT NULL,
  guest_wall_ns INTEGER NOT NULL, guest_user_ns INTEGER NOT NULL, guest_system_ns INTEGER NOT NULL,
  guest_peak_bytes INTEGER NOT NULL, guest_read_bytes INTEGER NOT NULL,
  guest_written_bytes INTEGER NOT NULL,
  billed_ms INTEGER NOT NULL, billed_mib_ms INTEGER NOT NULL, billed_cpu_ns INTEGER NOT NULL,
  billed_invocations INTEGER NOT NULL, body BLOB NOT NULL) STRICT;
CREATE INDEX usage_function ON usage(function, id);
CREATE INDEX usage_tenant ON usage(tenant, id);
CREATE INDEX usage_end ON usage(tenant, end_ms);
CREATE TABLE probe (id INTEGER PRIMARY KEY, count INTEGER NOT NULL) STRICT;
)sql";

struct Scope {
  const char* column;
  std::string value;
};

// "tenants/{t}/functions/-" means the tenant.
Scope ScopeOf(const std::string& function) {
  absl::string_view tenant = function;
  if (absl::ConsumeSuffix(&tenant, "/functions/-")) return {"tenant", std::string(tenant)};
  return {"function", function};
}

absl::Status Insert(SqliteDatabase& database, const Invocation& invocation) {
  const size_t split = invocation.name().rfind("/invocations/");
  const size_t tenant_end = invocation.name().find("/functions/");
  if (split == std::string::npos || tenant_end == std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", invocation.name(), "' is not an invocation's name"));
  }
  const std::string function = invocation.name().substr(0, split);
  const std::string id = invocation.name().substr(split + sizeof("/invocations/") - 1);
  ASSIGN_OR_RETURN(auto insert,
                   database.Prepare("INSERT INTO usage VALUES "
                                    "(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) "
                                    "ON CONFLICT(name) DO NOTHING"));
  const auto& host = invocation.usage().host();
  const auto& guest = invocation.usage().guest();
  const auto& billed = invocation.usage().billed();
  const int64_t end_ms =
      invocation.end_time().seconds() * 1000 + invocation.end_time().nanos() / 1'000'000;
  insert.Bind(invocation.name()).Bind(function.substr(0, tenant_end)).Bind(function).Bind(id);
  for (const int64_t value :
       {end_ms, int64_t{invocation.outcome()}, int64_t{invocation.start_kind()}, host.wall_ns(),
        host.cpu_ns(), host.memory_mib(), host.request_bytes(), host.response_bytes(),
        host.boot_cpu_ns(), guest.wall_ns(), guest.user_cpu_ns(), guest.system_cpu_ns(),
        guest.peak_memory_bytes(), guest.read_bytes(), guest.written_bytes(), billed.duration_ms(),
        billed.memory_mib_ms(), billed.cpu_ns(), billed.invocations()}) {
    insert.Bind(value);
  }
  return insert.BindBlob(invocation.SerializeAsString()).Run();
}

absl::StatusOr<Invocation> Parse(const std::string& body) {
  Invocation invocation;
  if (!invocation.ParseFromString(body)) return absl::DataLossError("a usage record is damaged");
  return invocation;
}

// Column i of the sums below, in the order of the SELECT.
void AddRow(const SqliteStatement& row, UsageSum* sum) {
  const int64_t count = row.Int(3);
  sum->outcomes[hearth::v1::Outcome_Name(static_cast<hearth::v1::Outcome>(row.Int(1)))] += count;
  sum->start_kinds[hearth::v1::StartKind_Name(static_cast<hearth::v1::StartKind>(row.Int(2)))] +=
      count;
  hearth::v1::Usage usage;
  auto* host = usage.mutable_host();
  auto* guest = usage.mutable_guest();
  auto* billed = usage.mutable_billed();
  host->set_wall_ns(row.Int(4));
  host->set_cpu_ns(row.Int(5));
  host->set_memory_mib(row.Int(6));
  host->set_request_bytes(row.Int(7));
  host->set_response_bytes(row.Int(8));
  host->set_boot_cpu_ns(row.Int(9));
  guest->set_wall_ns(row.Int(10));
  guest->set_user_cpu_ns(row.Int(11));
  guest->set_system_cpu_ns(row.Int(12));
  guest->set_peak_memory_bytes(row.Int(13));
  guest->set_read_bytes(row.Int(14));
  guest->set_written_bytes(row.Int(15));
  billed->set_duration_ms(row.Int(16));
  billed->set_memory_mib_ms(row.Int(17));
  billed->set_cpu_ns(row.Int(18));
  billed->set_invocations(row.Int(19));
  AddUsage(usage, &sum->usage);
}

class SqliteLedger final : public Ledger {
 public:
  SqliteLedger(std::unique_ptr<SqliteDatabase> writer, std::unique_ptr<SqliteDatabase> reader)
      : writer_(std::move(writer)), reader_(std::move(reader)), thread_([this] { WriteLoop(); }) {}

  ~SqliteLedger() override {
    {
      absl::MutexLock lock(&mutex_);
      closing_ = true;
    }
    thread_.join();
  }

  absl::Status Append(const Invocation& invocation) override {
    Waiting waiting{&invocation, absl::nullopt};
    return Submit(waiting);
  }

  absl::Status CheckWritable() override {
    {
      absl::MutexLock lock(&mutex_);
      if (last_.ok()) return absl::OkStatus();
    }
    Waiting waiting{nullptr, absl::nullopt};
    return Submit(waiting);
  }

  absl::StatusOr<Invocation> Get(const std::string& name) override {
    absl::MutexLock lock(&read_mutex_);
    ASSIGN_OR_RETURN(auto select, reader_->Prepare("SELECT body FROM usage WHERE name = ?"));
    ASSIGN_OR_RETURN(const bool found, select.Bind(name).Step());
    if (!found) return absl::NotFoundError(absl::StrCat(name, " does not exist"));
    return Parse(select.Text(0));
  }

  absl::StatusOr<std::vector<Invocation>> List(const std::string& function,
                                               const std::string& before, int limit) override {
    const Scope scope = ScopeOf(function);
    std::string sql = absl::StrCat("SELECT body FROM usage WHERE ", scope.column, " = ?");
    if (!before.empty()) sql += " AND id < ?";
    sql += " ORDER BY id DESC LIMIT ?";
    absl::MutexLock lock(&read_mutex_);
    ASSIGN_OR_RETURN(auto select, reader_->Prepare(sql));
    select.Bind(scope.value);
    if (!before.empty()) select.Bind(before);
    select.Bind(int64_t{limit});
    std::vector<Invocation> invocations;
    while (true) {
      ASSIGN_OR_RETURN(const bool row, select.Step());
      if (!row) return invocations;
      ASSIGN_OR_RETURN(Invocation invocation, Parse(select.Text(0)));
      invocations.push_back(std::move(invocation));
    }
  }

  absl::StatusOr<std::vector<UsageSum>> Sum(const std::string& function, absl::Time start,
                                            absl::Time end) override {
    const Scope scope = ScopeOf(function);
    absl::MutexLock lock(&read_mutex_);
    ASSIGN_OR_RETURN(
        auto select,
        reader_->Prepare(absl::StrCat(
            "SELECT function, outcome, start_kind, COUNT(*), total_of(wall_ns), total_of(cpu_ns), "
            "MAX(memory_mib), total_of(request_bytes), total_of(response_bytes), "
            "total_of(boot_cpu_ns), total_of(guest_wall_ns), total_of(guest_user_ns), "
            "total_of(guest_system_ns), MAX(guest_peak_bytes), total_of(guest_read_bytes), "
            "total_of(guest_written_bytes), total_of(billed_ms), total_of(billed_mib_ms), "
            "total_of(billed_cpu_ns), total_of(billed_invocations) FROM usage WHERE ",
            scope.column,
            " = ? AND end_ms >= ? AND end_ms < ? GROUP BY function, outcome, start_kind "
            "ORDER BY function")));
    select.Bind(scope.value).Bind(absl::ToUnixMillis(start)).Bind(absl::ToUnixMillis(end));
    std::vector<UsageSum> sums;
    while (true) {
      ASSIGN_OR_RETURN(const bool row, select.Step());
      if (!row) return sums;
      if (sums.empty() || sums.back().function != select.Text(0)) {
        sums.push_back({select.Text(0), {}, {}, {}});
      }
      AddRow(select, &sums.back());
    }
  }

 private:
  struct Waiting {
    const Invocation* invocation;  // Null: only see whether writing works.
    absl::optional<absl::Status> result;
  };

  absl::Status Submit(Waiting& waiting) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    pending_.push_back(&waiting);
    const auto answered = [&waiting] { return waiting.result.has_value(); };
    mutex_.Await(absl::Condition(&answered));
    return *waiting.result;
  }

  void WriteLoop() ABSL_LOCKS_EXCLUDED(mutex_) {
    while (true) {
      std::vector<Waiting*> batch;
      {
        absl::MutexLock lock(&mutex_);
        const auto due = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
          return closing_ || !pending_.empty();
        };
        mutex_.Await(absl::Condition(&due));
        if (pending_.empty()) return;
        while (!pending_.empty() && batch.size() < limits::kMaxLedgerBatch) {
          batch.push_back(pending_.front());
          pending_.pop_front();
        }
      }
      const absl::Status status = WriteBatch(batch);
      absl::MutexLock lock(&mutex_);
      last_ = status;
      for (Waiting* waiting : batch) waiting->result = status;
    }
  }

  absl::Status WriteBatch(const std::vector<Waiting*>& batch) {
    ASSIGN_OR_RETURN(auto transaction, SqliteTransaction::Begin(*writer_, true));
    for (const Waiting* waiting : batch) {
      if (waiting->invocation != nullptr) {
        RETURN_IF_ERROR(Insert(*writer_, *waiting->invocation));
      } else {
        RETURN_IF_ERROR(writer_->Execute(
            "INSERT INTO probe VALUES (1, 1) ON CONFLICT(id) DO UPDATE SET count = count + 1"));
      }
    }
    return transaction.Commit();
  }

  const std::unique_ptr<SqliteDatabase> writer_;  // The writer thread's alone.
  absl::Mutex read_mutex_;
  const std::unique_ptr<SqliteDatabase> reader_ ABSL_PT_GUARDED_BY(read_mutex_);

  absl::Mutex mutex_;
  std::deque<Waiting*> pending_ ABSL_GUARDED_BY(mutex_);
  absl::Status last_ ABSL_GUARDED_BY(mutex_);
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // Last: it uses all of the above.
};

}  // namespace

absl::StatusOr<std::unique_ptr<Ledger>> OpenSqliteLedger(const std::string& path,
                                                         int64_t max_pages) {
  const SqliteOptions options{{kLedgerSchema1}, max_pages};
  ASSIGN_OR_RETURN(auto writer, SqliteDatabase::Open(path, options));
  ASSIGN_OR_RETURN(auto reader, SqliteDatabase::Open(path, options));
  return std::make_unique<SqliteLedger>(std::move(writer), std::move(reader));
}

}  // namespace hearth::control
