// The type that a committed dashboard has to satisfy.
import type { AnnotationQuery, Dashboard } from '@grafana/schema';

// JSON holds the values of enums, which TypeScript does not accept in the place of the enums themselves.
type Plain<T> = unknown extends T
  ? T
  : T extends string
    ? `${T}`
    : T extends readonly (infer Item)[]
      ? Plain<Item>[]
      : T extends object
        ? { [Key in keyof T]: Plain<T[Key]> }
        : T;

// Grafana types the target of an annotation without the fields that its SQL data sources read.
interface SqlTarget {
  datasource: { type: string; uid: string };
  editorMode: 'code';
  format: 'table' | 'time_series';
  rawQuery: true;
  rawSql: string;
  refId: string;
}
type Annotation = Plain<Omit<AnnotationQuery, 'target'>> & { target: SqlTarget };

export type Committed = Plain<Omit<Dashboard, 'annotations'>> & { annotations: { list: Annotation[] } };
