// Package sqlite is a backend plugin service for the task type "sqlite" (flytekit's SQLite3Task), small enough to
// read in one sitting and real enough to use: it runs the task's query on an SQLite database and hands back the
// rows as Parquet, or as values that the next task can take as inputs. What a query gives is what its task declares:
//
//   - a schema or structured dataset: all rows, in a Parquet file;
//   - an int, float, str or bool: a cell, and the query has to return one row; Optional takes NULL too;
//   - a list of those: a column.
//
// A value is of the column that has the output's name, or of the only column there is. Values travel inside messages,
// so together they are limited to one MiB.
//
// It speaks flyteidl's AsyncAgentService and AgentMetadataService, so propeller reaches it with the backend plugin
// and with the connector plugin that Flyte ships alike.
//
// A job is a row in an SQLite file in [Options.Dir], and nothing about it is kept anywhere else. A service that is
// killed in mid-job therefore loses nothing: whoever opens the same folder next runs the job again. Several
// services may share a folder (on one machine's disk: SQLite's write-ahead log does not work over a network file
// system); each job is leased to one of them, and a service that stops renewing its leases loses its jobs to the
// others. Running a job twice is harmless, because a query only reads and its result appears by a rename.
//
// What a task may ask of the service is what its query needs and no more: the query runs on a read-only connection
// whose authorizer refuses everything but reading. The database itself is the task author's choice, though, so the
// service reads any SQLite file and any http address that its own account can reach. Run it with an account and in
// a network where that is fine.
package sqlite
